"""How fast each op is here, against what people write by hand: contenders, parity, interleaved times, the floor."""

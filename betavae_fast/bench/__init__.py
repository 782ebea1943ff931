"""Measures the speed of each op against code that people write by hand: contenders, parity, interleaved times, floor."""

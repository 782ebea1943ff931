"use strict";

// Feature maps are [row][column][channel], so that the channels of a place, and a row of weights, are contiguous. Numbers
// are doubles, which JavaScript adds without a conversion.

/** Convert half-precision numbers, given as base64 of their little-endian bytes, to Float64Array. */
function readHalves(text) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const numbers = new Float64Array(bytes.length / 2);
  for (let i = 0; i < numbers.length; i++) {
    const half = bytes[2 * i] | (bytes[2 * i + 1] << 8);
    const exponent = (half >> 10) & 31;
    const fraction = half & 1023;
    const size = exponent === 0 ? fraction * 2 ** -24 : (1 + fraction / 1024) * 2 ** (exponent - 15);
    numbers[i] = half & 0x8000 ? -size : size;
  }
  return numbers;
}

/** Add `scale` times the row of `weights` at `from` to the `count` numbers of `out` at `to`. */
function addRow(out, to, weights, from, count, scale) {
  let i = 0; // four at a time: a fifth faster
  for (; i + 3 < count; i += 4) {
    out[to + i] += scale * weights[from + i];
    out[to + i + 1] += scale * weights[from + i + 1];
    out[to + i + 2] += scale * weights[from + i + 2];
    out[to + i + 3] += scale * weights[from + i + 3];
  }
  for (; i < count; i++) out[to + i] += scale * weights[from + i];
}

function linear(layer, weights) {
  const { inputs, outputs } = layer;
  return (map) => {
    const out = weights.slice(inputs * outputs, (inputs + 1) * outputs);
    for (let i = 0; i < inputs; i++) {
      if (map.data[i] !== 0) addRow(out, 0, weights, i * outputs, outputs, map.data[i]);
    }
    return { data: out, height: 1, width: 1, channels: outputs };
  };
}

function transposed(layer, weights) {
  const { inputs, outputs, kernel, stride, padding } = layer;
  const bias = weights.slice(kernel * kernel * inputs * outputs);
  return (map) => {
    const height = (map.height - 1) * stride - 2 * padding + kernel;
    const width = (map.width - 1) * stride - 2 * padding + kernel;
    const out = new Float64Array(height * width * outputs);
    for (let place = 0; place < height * width; place++) out.set(bias, place * outputs);
    for (let y = 0; y < kernel; y++) {
      for (let x = 0; x < kernel; x++) {
        const tap = (y * kernel + x) * inputs * outputs;
        for (let row = 0; row < map.height; row++) {
          const outRow = row * stride - padding + y;
          if (outRow < 0 || outRow >= height) continue;
          for (let column = 0; column < map.width; column++) {
            const outColumn = column * stride - padding + x;
            if (outColumn < 0 || outColumn >= width) continue;
            const from = (row * map.width + column) * inputs;
            const to = (outRow * width + outColumn) * outputs;
            for (let i = 0; i < inputs; i++) {
              const value = map.data[from + i];
              if (value !== 0) addRow(out, to, weights, tap + i * outputs, outputs, value);
            }
          }
        }
      }
    }
    return { data: out, height, width, channels: outputs };
  };
}

/** Turn [channel][row][column], which the linear layers give, into a feature map. */
function unflatten(layer) {
  const { channels, height, width } = layer;
  return (map) => {
    const data = new Float64Array(map.data.length);
    for (let channel = 0; channel < channels; channel++) {
      for (let place = 0; place < height * width; place++) {
        data[place * channels + channel] = map.data[channel * height * width + place];
      }
    }
    return { data, height, width, channels };
  };
}

function each(change) {
  return (map) => ({ ...map, data: map.data.map(change) });
}

/** Make the function that decodes: from a code to the pixels in [0, 1] of [row][column][channel]. */
function makeDecoder(packed) {
  const weights = readHalves(packed.weights);
  let read = 0;
  const take = (count) => weights.subarray(read, (read += count));
  const steps = packed.layers.map((layer) => {
    switch (layer.kind) {
      case "linear":
        return linear(layer, take((layer.inputs + 1) * layer.outputs));
      case "transposed":
        return transposed(layer, take((layer.kernel ** 2 * layer.inputs + 1) * layer.outputs));
      case "unflatten":
        return unflatten(layer);
      case "relu":
        return each((value) => (value > 0 ? value : 0));
      case "tanh":
        return each(Math.tanh);
    }
    throw new Error(`unknown layer ${layer.kind}`);
  });
  const pixel = packed.sigmoid
    ? (value) => 1 / (1 + Math.exp(-value))
    : (value) => Math.min(1, Math.max(0, value));
  return (code) => {
    let map = { data: Float64Array.from(code), height: 1, width: 1, channels: code.length };
    for (const step of steps) map = step(map);
    return map.data.map(pixel);
  };
}

/** Let the controls in `root` move the code, and draw the decoded image after each change. */
function explore(root, packed) {
  const decode = makeDecoder(packed);
  const [channels, height, width] = packed.shape;
  const canvas = root.querySelector("canvas");
  const context = canvas.getContext("2d");
  const image = context.createImageData(width, height);
  const sliders = packed.sliders.map((slider) => root.querySelector(`[data-channel="${slider.channel}"]`));
  let code, start, waiting = false;

  function draw() {
    waiting = false;
    const pixels = decode(code);
    for (let place = 0; place < height * width; place++) {
      for (let channel = 0; channel < 3; channel++) {
        image.data[4 * place + channel] = Math.round(255 * pixels[place * channels + (channels === 3 ? channel : 0)]);
      }
      image.data[4 * place + 3] = 255;
    }
    context.putImageData(image, 0, 0);
  }

  function change() {
    for (const slider of sliders) {
      const value = code[slider.dataset.channel];
      slider.value = value;
      root.querySelector(`output[for="${slider.id}"]`).value = value.toFixed(2).replace("-", "−");
    }
    if (!waiting) requestAnimationFrame(draw);
    waiting = true;
  }

  function startFrom(number) {
    start = packed.starts[number];
    code = [...start];
    root.querySelectorAll("[data-start]").forEach((button) => {
      button.setAttribute("aria-pressed", String(Number(button.dataset.start) === number));
    });
    change();
  }

  for (const slider of sliders) {
    const channel = slider.dataset.channel;
    slider.addEventListener("input", () => {
      code[channel] = Number(slider.value);
      change();
    });
    slider.addEventListener("dblclick", () => {
      code[channel] = start[channel];
      change();
    });
  }
  root.querySelectorAll("[data-start]").forEach((button) => {
    button.addEventListener("click", () => startFrom(Number(button.dataset.start)));
  });
  root.querySelector("[data-action=reset]").addEventListener("click", () => {
    code = [...start];
    change();
  });
  root.querySelector("[data-action=save]").addEventListener("click", () => {
    const link = document.createElement("a");
    link.download = "decoded.png";
    link.href = canvas.toDataURL("image/png");
    link.click();
  });
  startFrom(0);
}

// The networks for points of the plane at work in the page: unpacked weights, layers, the residual network.

/** Numbers of 12 bits, two in three bytes, -2047 to 2047: what a weight needs, relative to its layer's largest. */
export function twelve(text) {
  const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0)), out = new Int16Array((bytes.length / 3) * 2);
  for (let i = 0, k = 0; i < bytes.length; i += 3) {
    out[k++] = ((bytes[i] << 4) | (bytes[i + 1] >> 4)) - 2048;
    out[k++] = (((bytes[i + 1] & 15) << 8) | bytes[i + 2]) - 2048;
  }
  return out;
}
const silu = (v) => v / (1 + Math.exp(-v));

/** A layer: { rows, w, b }, w as Float32Array in rows; out = W h + b. */
export function linear({ rows, w, b }, h) {
  const n = h.length;
  return Float32Array.from({ length: rows }, (_, i) => {
    let sum = b[i];
    for (let j = 0; j < n; j++) sum += w[i * n + j] * h[j];
    return sum;
  });
}

/** The residual network: h += W silu(h + shift), the shift being what the time input says. */
export function network(net, x) {
  let h = linear(net.first, x);
  net.layers.forEach((layer, k) => {
    const out = linear(layer, h.map((v, i) => silu(v + net.shifts[k][i])));
    h = h.map((v, i) => v + out[i]);
  });
  return linear(net.last, h.map(silu));
}

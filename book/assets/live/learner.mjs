// A small HKD for points that learns: an encoder, a list of 2 x 2 blocks, a decoder, their gradients by hand, and Adam.
// Plain loops in float64. tests/browser/test_learner.py holds every step against torch's.
// A batch of B rows with n numbers each is one Float64Array of B n numbers, row after row.

/** Numbers in [0, 1) from a seed other than 0: xorshift with 32 bits (Marsaglia 2003). */
export function dice(seed) {
  let state = seed | 0;
  return () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) / 2 ** 32;
  };
}

/** What is learned: a value, its gradient, Adam's two moments, and a learning rate relative to the others'. */
const parameter = (n, draw, rate = 1) => ({ value: Float64Array.from({ length: n }, draw), gradient: new Float64Array(n),
  first: new Float64Array(n), second: new Float64Array(n), rate });

/** Layers of the given widths, uniform in +-gain / sqrt(inputs). A wide gain in the first layer lets it see fine detail. */
function perceptron(widths, random, wide) {
  return widths.slice(1).map((m, k) => {
    const n = widths[k], gain = (k === 0 ? wide : 1) / Math.sqrt(n);
    const draw = () => gain * (2 * random() - 1);
    return { n, m, W: parameter(m * n, draw), b: parameter(m, draw) };
  });
}

/** An HKD: encoder from (x, y, t) to `state` numbers, decoder back to the plane, A = 0: alpha first, then beta. */
export function hkd({ width, state, wide, rateA, seed }) {
  const random = dice(seed);
  return {
    encoder: perceptron([3, width, width, state], random, wide),
    decoder: perceptron([state, width, width, 2], random, 1),
    A: parameter(state, () => 0, rateA),
  };
}

/** All that is learned, in one list. */
export const parameters = ({ encoder, decoder, A }) => [...[...encoder, ...decoder].flatMap(({ W, b }) => [W, b]), A];

/** W h + b for every row of h. */
function affine({ n, m, W, b }, h) {
  const B = h.length / n, w = W.value, out = new Float64Array(B * m);
  for (let r = 0; r < B; r++)
    for (let i = 0; i < m; i++) {
      let sum = b.value[i];
      for (let j = 0; j < n; j++) sum += w[i * n + j] * h[r * n + j];
      out[r * m + i] = sum;
    }
  return out;
}

/** Given the loss's derivative `d` by W h + b: adds those by W and b to their gradients, and returns that by h. */
function affineBack({ n, m, W, b }, h, d) {
  const B = h.length / n, w = W.value, dw = W.gradient, back = new Float64Array(B * n);
  for (let r = 0; r < B; r++)
    for (let i = 0; i < m; i++) {
      const v = d[r * m + i];
      b.gradient[i] += v;
      for (let j = 0; j < n; j++) {
        dw[i * n + j] += v * h[r * n + j];
        back[r * n + j] += v * w[i * n + j];
      }
    }
  return back;
}

const sigmoid = (v) => 1 / (1 + Math.exp(-v));
const swish = (v) => v * sigmoid(v); // torch's silu
const swishSlope = (v) => { const s = sigmoid(v); return s * (1 + v * (1 - s)); };

/** A network's answers `out` to the rows of x, and what `backward` needs: what entered each layer, and what left it. */
export function forward(net, x) {
  const seen = [];
  let h = x;
  net.forEach((layer, k) => {
    const out = affine(layer, h);
    seen.push({ h, out });
    h = k < net.length - 1 ? out.map(swish) : out;
  });
  return { out: h, seen };
}

/** From the loss's derivative `d` by the answers to that by the network's input; adds to all gradients on the way. */
function backward(net, seen, d) {
  for (let k = net.length - 1; k >= 0; k--) {
    if (k < net.length - 1) d = d.map((v, i) => v * swishSlope(seen[k].out[i]));
    d = affineBack(net[k], seen[k].h, d);
  }
  return d;
}

/** e^{A dt} z: the pair (p, q) at k and k + half of each row is multiplied by e^{(alpha - i beta) dt}, dt one per row. */
export function evolve(A, z, dt) {
  const d = A.value.length, half = d / 2, out = new Float64Array(z.length);
  for (let r = 0; r < dt.length; r++)
    for (let k = 0; k < half; k++) {
      const [c, s] = turn(A, k, dt[r]), p = z[r * d + k], q = z[r * d + k + half];
      out[r * d + k] = c * p + s * q;
      out[r * d + k + half] = c * q - s * p;
    }
  return out;
}

/** Growth times cosine and sine of the turn of block k over a time dt. */
function turn(A, k, dt) {
  const grown = Math.exp(A.value[k] * dt), angle = A.value[k + A.value.length / 2] * dt;
  return [grown * Math.cos(angle), grown * Math.sin(angle)];
}

/** From the loss's derivative by the evolved states, `moved`, to that by z; adds those by alpha and beta. */
function evolveBack(A, moved, dt, derivative) {
  const d = A.value.length, half = d / 2, back = new Float64Array(moved.length);
  for (let r = 0; r < dt.length; r++)
    for (let k = 0; k < half; k++) {
      const [c, s] = turn(A, k, dt[r]), i = r * d + k, j = i + half;
      const dp = derivative[i], dq = derivative[j];
      A.gradient[k] += dt[r] * (dp * moved[i] + dq * moved[j]);
      A.gradient[k + half] += dt[r] * (dp * moved[j] - dq * moved[i]);
      back[i] = c * dp - s * dq;
      back[j] = s * dp + c * dq;
    }
  return back;
}

/**
 * The loss of a batch, and its gradients: the mean over rows of |D(e^{A dt} E(x)) - wish|^2. `x` has (x, y, t) in rows,
 * `dt` one number and `wish` two numbers for each row.
 */
export function learn(model, { x, dt, wish }) {
  for (const { gradient } of parameters(model)) gradient.fill(0);
  const lifted = forward(model.encoder, x), moved = evolve(model.A, lifted.out, dt);
  const { out, seen } = forward(model.decoder, moved);
  const gap = out.map((v, i) => v - wish[i]);
  const byState = backward(model.decoder, seen, gap.map((v) => (2 * v) / dt.length));
  backward(model.encoder, lifted.seen, evolveBack(model.A, moved, dt, byState));
  return gap.reduce((sum, v) => sum + v * v, 0) / dt.length;
}

/** Adam's step number `count`, from 1 on, with betas 0.9 and 0.99 (Kingma and Ba 2015, algorithm 1). */
export function adam(model, lr, count) {
  const [b1, b2] = [0.9, 0.99], c1 = 1 - b1 ** count, c2 = 1 - b2 ** count;
  for (const { value, gradient, first, second, rate } of parameters(model))
    for (let i = 0; i < value.length; i++) {
      first[i] = b1 * first[i] + (1 - b1) * gradient[i];
      second[i] = b2 * second[i] + (1 - b2) * gradient[i] ** 2;
      value[i] -= (lr * rate * (first[i] / c1)) / (Math.sqrt(second[i] / c2) + 1e-8);
    }
}

/**
 * A batch of B rows of the paths: half of them begin at the noise, half anywhere. Asked for the ends alone (`guesses`
 * false) that is the paper's objective; else half of the rows ask for the teacher's guess at any other time instead.
 */
export function batch({ times, count, inputs, guesses: taught }, B, guesses, random) {
  const x = new Float64Array(3 * B), dt = new Float64Array(B), wish = new Float64Array(2 * B), last = times.length - 1;
  const any = (n) => Math.floor(n * random());
  for (let r = 0; r < B; r++) {
    const path = any(count), from = r % 2 ? any(last) : 0, to = guesses && r % 4 > 1 ? any(last + 1) : last;
    for (const i of [0, 1]) {
      x[3 * r + i] = inputs[2 * (from * count + path) + i];
      wish[2 * r + i] = taught[2 * (to * count + path) + i];
    }
    x[3 * r + 2] = times[from];
    dt[r] = times[to] - times[from];
  }
  return { x, dt, wish };
}

// A chart over time as a drawing of lines or stacked bars, and the same numbers as a table.

import { html, useLayoutEffect, useRef, useState } from './ui.js';

// Around what is drawn, in pixels.
const AROUND = { left: 48, right: 16, top: 8, bottom: 26 };
const HOUR = 3600;
const DAY = 24 * HOUR;
// Between two times that are written, in seconds.
const STEPS = [60, 300, 600, 900, 1800, HOUR, 2 * HOUR, 3 * HOUR, 6 * HOUR, 12 * HOUR, DAY, 2 * DAY, 7 * DAY, 14 * DAY, 28 * DAY];

/** A time of this browser's zone; from a day on, its date. */
function clock(seconds, step) {
  const date = new Date(seconds * 1000);
  const two = (value) => String(value).padStart(2, '0');
  return step >= DAY ? date.toLocaleDateString('en', { day: 'numeric', month: 'short' }) : `${two(date.getHours())}:${two(date.getMinutes())}`;
}

/** The multiples of a step from `low` to `high`, shifted by `offset`. */
function ticks(low, high, step, offset = 0) {
  const all = [];
  for (let at = Math.ceil((low - offset) / step) * step + offset; at <= high; at += step) all.push(at);
  return all;
}

/** Values to write beside an axis that is `length` pixels long: 1, 2 or 5 times a power of ten apart. */
function valueTicks(high, length) {
  const least = (high * 36) / length;
  const power = 10 ** Math.floor(Math.log10(least));
  const step = power * ([1, 2, 5].find((times) => times * power >= least) ?? 10);
  return ticks(0, high, step).map((value) => Number(value.toPrecision(6)));
}

/** Times to write below an axis that is `length` pixels long. */
function timeTicks(low, high, length) {
  const least = ((high - low) * 72) / length;
  const step = STEPS.find((seconds) => seconds >= least) ?? STEPS.at(-1);
  return ticks(low, high, step, new Date(low * 1000).getTimezoneOffset() * 60).map((at) => ({ at, text: clock(at, step) }));
}

/** A line through the values; there is none to or from a gap. */
function path(values, x, y) {
  let pen = 'M';
  return values.map((value, index) => {
    if (value === null) {
      pen = 'M';
      return '';
    }
    const part = `${pen}${x(index)} ${y(value)}`;
    pen = 'L';
    return part;
  }).join('');
}

/** The drawing. `at` is the index of the time that is pointed at. */
function Drawing({ times, series, width, height, unit, at, onPoint }) {
  const stacked = series.every(({ line }) => !line);
  const half = times.length > 1 ? (times[1] - times[0]) / 2 : 30;
  const [low, high] = [times[0] - half, times.at(-1) + half];
  const across = Math.max(1, width - AROUND.left - AROUND.right);
  const down = height - AROUND.top - AROUND.bottom;
  const sums = times.map((_, index) => series.reduce((sum, { values }) => (stacked ? sum + (values[index] ?? 0) : Math.max(sum, values[index] ?? 0)), 0));
  const top = Math.max(Math.max(...sums) * 1.08, stacked && series.length > 1 ? 4 : 1);
  const round = (value) => Math.round(value * 10) / 10;
  const placed = (seconds) => round(AROUND.left + ((seconds - low) / (high - low)) * across);
  const x = (index) => placed(times[index]);
  const y = (value) => round(AROUND.top + (1 - value / top) * down);
  const bar = round(Math.max(1, Math.min(28, 0.72 * (across / times.length))));
  const piled = times.map(() => 0);
  const point = (event) => {
    const from = event.clientX - event.currentTarget.getBoundingClientRect().left - AROUND.left;
    const index = Math.floor((from / across) * times.length);
    onPoint(index >= 0 && index < times.length ? index : null);
  };
  return html`<svg width=${width} height=${height} aria-hidden="true" onPointerMove=${point} onPointerLeave=${() => onPoint(null)}>
    ${valueTicks(top, down).filter((value) => unit || Number.isInteger(value)).map((value) => html`<g key=${value}>
      <path class="rule" d=${`M${AROUND.left} ${y(value)}h${across}`} /><text x=${AROUND.left - 6} y=${y(value)} dy=".32em" text-anchor="end">${value}${unit && ` ${unit}`}</text></g>`)}
    ${timeTicks(low, high, across).map(({ at: seconds, text }) => html`<text key=${seconds} x=${placed(seconds)} y=${height - 8} text-anchor="middle">${text}</text>`)}
    ${series.map(({ name, tone, line, values }) => html`<g key=${name} fill=${`var(--${tone})`}>
      ${line ? html`<path class="drawn" stroke=${`var(--${tone})`} d=${path(values, x, y)} />
          ${values.map((value, index) => value !== null && html`<circle cx=${x(index)} cy=${y(value)} r="2" />`)}`
        : values.map((value, index) => {
          if (!value) return null;
          piled[index] += value;
          return html`<rect x=${round(x(index) - bar / 2)} y=${y(piled[index])} width=${bar} height=${round((value / top) * down)} rx="1" />`;
        })}</g>`)}
    ${at !== null && html`<path class="pointed" d=${`M${x(at)} ${AROUND.top}v${down}`} />`}
  </svg>`;
}

/**
 * A chart. `times` are Unix seconds; `series` are `{ name, tone, values, line }`, where `tone` is a colour of the style sheet. Bars are stacked.
 * `describe` is a sentence for screen readers; the numbers follow in a table.
 */
export function Chart({ times, series, describe, height = 200, unit = '', format = String }) {
  const holder = useRef(null);
  const [width, setWidth] = useState(0);
  const [at, setAt] = useState(null);

  useLayoutEffect(() => {
    const measure = () => { if (holder.current) setWidth(holder.current.clientWidth); };
    measure();
    const sizes = new ResizeObserver(measure);
    sizes.observe(holder.current);
    return () => sizes.disconnect();
  }, []);

  const exact = (seconds) => new Date(seconds * 1000).toISOString().slice(0, 16).replace('T', ' ');
  const shown = at !== null && times[at] !== undefined ? at : null;
  return html`<figure class="chart">
    <figcaption class="legend">
      ${series.map(({ name, tone, values }) => html`<span key=${name} class="key ${tone}">${name}${shown !== null && html` <strong>${values[shown] === null ? '—' : format(values[shown])}</strong>`}</span>`)}
      <span class="soft when">${shown === null ? '' : `${exact(times[shown])} UTC`}</span>
    </figcaption>
    <div class="plot" ref=${holder} role="img" aria-label=${describe}>${width > 0 && times.length > 0 && html`<${Drawing} times=${times} series=${series}
      width=${width} height=${height} unit=${unit} at=${shown} onPoint=${setAt} />`}</div>
    <details class="numbers"><summary>Numbers</summary><div class="scroll" tabindex="0" role="group" aria-label="Numbers of the chart"><table>
      <caption class="unseen">${describe}</caption>
      <thead><tr><th scope="col">Time (UTC)</th>${series.map(({ name }) => html`<th key=${name} scope="col" class="num">${name}</th>`)}</tr></thead>
      <tbody>${times.map((seconds, index) => html`<tr key=${seconds}><th scope="row">${exact(seconds)}</th>${series.map(({ name, values }) => html`<td key=${name} class="num">
        ${values[index] === null ? '—' : format(values[index])}</td>`)}</tr>`)}</tbody></table></div></details>
  </figure>`;
}

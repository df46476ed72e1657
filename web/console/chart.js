// A chart over time by uPlot, and the same numbers as a table.

import { html, useEffect, useLayoutEffect, useRef, useState } from './ui.js';

const library = { asked: null };

/** Loads uPlot when the first chart is shown. */
function uPlot() {
  library.asked ??= new Promise((done, failed) => {
    const script = document.getElementById('uplot');
    if (window.uPlot) return void done(window.uPlot);
    script.addEventListener('load', () => done(window.uPlot), { once: true });
    script.addEventListener('error', () => failed(new Error('the chart library was not loaded')), { once: true });
  });
  return library.asked;
}

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

function options(Plot, { series, width, height, stacked, unit }) {
  const soft = colour('soft');
  const font = `12px ${getComputedStyle(document.body).fontFamily}`;
  const axis = { stroke: soft, font, ticks: { show: false }, gap: 6 };
  const half = (times) => (times.length > 1 ? (times[1] - times[0]) / 2 : 30);
  const bars = Plot.paths.bars({ size: [0.72, 28], radius: 0.12 });
  const drawn = series.map(({ name, tone, line }) => ({
    label: name,
    stroke: colour(tone),
    fill: line ? undefined : colour(tone),
    width: line ? 1.75 : 0,
    paths: line ? undefined : bars,
    // A value between two gaps has no line.
    points: line ? { show: true, size: 4, fill: colour(tone) } : { show: false },
    spanGaps: false,
  }));
  return {
    width,
    height,
    legend: { show: false },
    cursor: { y: false, points: { show: false }, drag: { x: false, y: false } },
    padding: [8, 16, 0, 0],
    scales: {
      x: { time: true, range: (plot, low, high) => [low - half(plot.data[0]), high + half(plot.data[0])] },
      y: { range: (_, low, high) => [0, Math.max(high * 1.08, stacked ? 4 : 1)] } },
    axes: [
      { ...axis, size: 26, grid: { show: false }, space: 72, values: (_, ticks, __, ___, step) => ticks.map((tick) => clock(tick, step)) },
      { ...axis, size: 48, space: 36, grid: { stroke: colour('line'), width: 1 }, values: (_, ticks) => ticks.map((tick) => (Number.isInteger(tick) || unit ? `${tick}${unit ? ` ${unit}` : ''}` : '')) },
    ],
    series: [{}, ...drawn],
  };
}

function clock(seconds, step) {
  const date = new Date(seconds * 1000);
  const two = (value) => String(value).padStart(2, '0');
  return step >= 86400 ? date.toLocaleDateString('en', { day: 'numeric', month: 'short' }) : `${two(date.getHours())}:${two(date.getMinutes())}`;
}

/** Later series on top of earlier ones: what is drawn first is the sum. */
function stack(columns) {
  const sums = columns[0].map(() => 0);
  const piled = columns.map((column) => column.map((value, index) => { sums[index] += value ?? 0; return sums[index]; }));
  return piled.reverse();
}

/**
 * A chart. `times` are Unix seconds; `series` are `{ name, tone, values, line }`, where `tone` is a colour of the style sheet. Bars are stacked.
 * `describe` is a sentence for screen readers; the numbers follow in a table.
 */
export function Chart({ times, series, describe, height = 200, unit = '', format = String }) {
  const holder = useRef(null);
  const plot = useRef(null);
  const [at, setAt] = useState(null);
  const [failed, fail] = useState(false);
  const stacked = series.length > 1 && series.every(({ line }) => !line);

  const columns = series.map(({ values }) => values);
  const shape = JSON.stringify([series.map(({ name, tone, line }) => [name, tone, line]), stacked, unit, height]);
  const content = [times, ...(stacked ? stack(columns) : columns)];
  const latest = useRef(content);
  latest.current = content;

  useLayoutEffect(() => {
    let gone = false;
    const build = (Plot) => {
      plot.current?.destroy();
      if (gone || !holder.current) return;
      const inOrder = stacked ? [...series].reverse() : series;
      const built = options(Plot, { series: inOrder, width: holder.current.clientWidth, height, stacked, unit });
      built.hooks = { setCursor: [({ cursor }) => setAt(cursor.idx ?? null)] };
      plot.current = new Plot(built, latest.current, holder.current);
    };
    uPlot().then(build, () => fail(true));
    const theme = matchMedia('(prefers-color-scheme: dark)');
    const again = () => { if (window.uPlot) build(window.uPlot); };
    theme.addEventListener('change', again);
    const sizes = new ResizeObserver(() => {
      const width = holder.current?.clientWidth;
      if (width && plot.current && plot.current.width !== width) plot.current.setSize({ width, height });
    });
    sizes.observe(holder.current);
    return () => {
      gone = true;
      theme.removeEventListener('change', again);
      sizes.disconnect();
      plot.current?.destroy();
      plot.current = null;
    };
  }, [shape]);

  useEffect(() => { plot.current?.setData(latest.current); }, [JSON.stringify(content)]);

  const exact = (seconds) => new Date(seconds * 1000).toISOString().slice(0, 16).replace('T', ' ');
  const shown = at !== null && times[at] !== undefined ? at : null;
  return html`<figure class="chart">
    <figcaption class="legend">
      ${series.map(({ name, tone, values }) => html`<span key=${name} class="key ${tone}">${name}${shown !== null && html` <strong>${values[shown] === null ? '—' : format(values[shown])}</strong>`}</span>`)}
      <span class="soft when">${shown === null ? '' : `${exact(times[shown])} UTC`}</span>
    </figcaption>
    ${failed ? html`<p class="soft">The chart cannot be drawn here; its numbers are below.</p>`
      : html`<div class="plot" ref=${holder} role="img" aria-label=${describe}></div>`}
    <details class="numbers"><summary>Numbers</summary><div class="scroll" tabindex="0" role="group" aria-label="Numbers of the chart"><table>
      <caption class="unseen">${describe}</caption>
      <thead><tr><th scope="col">Time (UTC)</th>${series.map(({ name }) => html`<th key=${name} scope="col" class="num">${name}</th>`)}</tr></thead>
      <tbody>${times.map((seconds, index) => html`<tr key=${seconds}><th scope="row">${exact(seconds)}</th>${series.map(({ name, values }) => html`<td key=${name} class="num">
        ${values[index] === null ? '—' : format(values[index])}</td>`)}</tr>`)}</tbody></table></div></details>
  </figure>`;
}

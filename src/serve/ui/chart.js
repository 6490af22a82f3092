// Small charts as SVG, each with its numbers in words for those who do not see it.

const NS = "http://www.w3.org/2000/svg";
const [WIDTH, HEIGHT] = [320, 96];

function svg(tag, attributes = {}, ...children) {
  const element = document.createElementNS(NS, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

function picture(label, ...children) {
  return svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT + 16}`, role: "img", "aria-label": label }, ...children);
}

const text = (x, y, anchor, said) => svg("text", { x, y, "text-anchor": anchor }, said);

/** A line over time; `points` are `{at, share}` with shares from 0 to 1. */
export function line(points, label, from, to) {
  const most = Math.max(0.1, ...points.map((p) => p.share));
  const [first, last] = [points[0].at, points.at(-1).at];
  const x = ({ at }) => (last > first ? ((at - first) / (last - first)) * (WIDTH - 8) + 4 : WIDTH / 2);
  const y = ({ share }) => HEIGHT - 4 - (share / most) * (HEIGHT - 16);
  const path = points.map((p, i) => `${i ? "L" : "M"}${x(p).toFixed(1)} ${y(p).toFixed(1)}`).join("");
  const end = points.at(-1);
  return picture(label,
    svg("path", { class: "area", d: `${path}L${x(end).toFixed(1)} ${HEIGHT}L${x(points[0]).toFixed(1)} ${HEIGHT}Z` }),
    svg("path", { class: "line", d: path }),
    svg("circle", { class: "end", cx: x(end), cy: y(end), r: 3.5 }),
    text(4, HEIGHT + 13, "start", from), text(WIDTH - 4, HEIGHT + 13, "end", to));
}

/** Columns; `bars` are `{name, count, tone, mark}`, and every other name is written below when they are many. A mark is a line across its column. */
export function columns(bars, label, most = Math.max(1, ...bars.map((bar) => bar.count))) {
  const step = WIDTH / bars.length;
  const column = ({ count, tone }, i) => {
    const height = count > 0 ? Math.max(2, (count / most) * (HEIGHT - 6)) : 0;
    return svg("rect", { class: tone ?? "", x: i * step + 1, y: HEIGHT - height, width: step - 2, height, rx: 2 });
  };
  const line = ({ mark }, i) => {
    const y = HEIGHT - (mark / most) * (HEIGHT - 6);
    return svg("path", { class: "mark", d: `M${(i * step + 1).toFixed(1)} ${y.toFixed(1)}h${(step - 2).toFixed(1)}` });
  };
  const marks = bars.map((bar, i) => (typeof bar.mark === "number" ? line(bar, i) : null));
  const every = bars.length > 8 ? 2 : 1;
  const names = bars.map(({ name }, i) => (i % every ? null : text((i + 0.5) * step, HEIGHT + 13, "middle", name)));
  return picture(label, svg("path", { class: "base", d: `M0 ${HEIGHT}H${WIDTH}` }), ...[...bars.map(column), ...marks, ...names].filter(Boolean));
}

/** One bar in pieces; `pieces` are `{name, count, tone}`. */
export function stacked(pieces, label) {
  const sum = pieces.reduce((sum, piece) => sum + piece.count, 0) || 1;
  let at = 0;
  const drawn = pieces.filter((piece) => piece.count > 0).map(({ count, tone }) => {
    const width = (count / sum) * WIDTH;
    const rect = svg("rect", { class: tone, x: at, y: 0, width: Math.max(width - 1.5, 1), height: 22, rx: 3 });
    at += width;
    return rect;
  });
  const drawing = svg("svg", { viewBox: `0 0 ${WIDTH} 22`, role: "img", "aria-label": label }, ...drawn);
  return drawing;
}

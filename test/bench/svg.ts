import type { Figure } from "./figures.js";

const rowHeight = 20;
const headingHeight = 28;
const labelWidth = 590;
const barWidth = 420;
const valueWidth = 150;
const top = 76;
const width = labelWidth + barWidth + valueWidth;
const colors = { better: "#2a7f62", worse: "#9aa5b1", missed: "#c0392b", line: "#1f2933", grid: "#e4e7eb" } as const;

/**
 * The ratios as horizontal bars on a logarithmic scale that start at 1 ×, the reference: to the right we are better. A short black
 * line is what was promised, a thin one the spread. An SVG document.
 */
export function plotRatios(title: string, figures: readonly Figure[]): string {
  const rows = figures.filter((figure) => figure.ratio !== undefined);
  const bounds = rows.flatMap(({ ratio, want }) => [ratio?.min ?? 1, ratio?.max ?? 1, want?.ratio ?? 1]);
  const low = Math.floor(Math.log2(Math.min(0.5, ...bounds)));
  const high = Math.ceil(Math.log2(Math.max(2, ...bounds)));
  const x = (ratio: number) => labelWidth + ((Math.log2(ratio) - low) / (high - low)) * barWidth;
  const body: string[] = [];
  let y = top;
  let workload = "";
  for (const figure of rows) {
    if (figure.workload !== workload) {
      workload = figure.workload;
      y += headingHeight;
      body.push(text(12, y - 8, workload, 'font-weight="bold"'));
    }
    body.push(...bar(figure, y, x));
    y += rowHeight;
  }
  const height = y + 24;
  const step = high - low > 8 ? 2 : 1;
  const grid: string[] = [];
  // From 1 × outwards, so that it is among the labels.
  for (let power = -Math.floor(-low / step) * step; power <= high; power += step) {
    const at = x(2 ** power);
    const stroke = power === 0 ? `stroke="${colors.line}"` : `stroke="${colors.grid}"`;
    grid.push(`<line x1="${px(at)}" y1="${top}" x2="${px(at)}" y2="${y + 4}" ${stroke}/>`);
    grid.push(text(at, top - 6, labelOf(2 ** power), 'text-anchor="middle" fill="#52606d"'));
  }
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}" viewBox="0 0 ${width} ${height}" font-family="sans-serif" font-size="12">`,
    `<rect width="${width}" height="${height}" fill="#ffffff"/>`,
    text(12, 22, title, 'font-size="15" font-weight="bold"'),
    text(
      12,
      42,
      "Times as good as the reference: right of 1 × ocifs is better. Thick black line: what is promised. Thin line: spread. Red: missed.",
      'fill="#52606d"',
    ),
    ...grid,
    ...body,
    "</svg>",
    "",
  ].join("\n");
}

function bar(figure: Figure, y: number, x: (ratio: number) => number): string[] {
  const { ratio, want, reference } = figure;
  if (ratio === undefined) return [];
  const [from, to] = [x(1), x(ratio.median)];
  const fill = want?.met === false ? colors.missed : ratio.median >= 1 ? colors.better : colors.worse;
  const middle = y + rowHeight / 2;
  const out = [
    text(24, middle + 4, `${figure.name}  ·  ${reference?.name ?? ""}`),
    `<rect x="${px(Math.min(from, to))}" y="${y + 4}" width="${px(Math.max(1, Math.abs(to - from)))}" height="${rowHeight - 8}" fill="${fill}"/>`,
    `<line x1="${px(x(ratio.min))}" y1="${middle}" x2="${px(x(ratio.max))}" y2="${middle}" stroke="${colors.line}"/>`,
  ];
  if (want?.ratio !== undefined) {
    const at = px(x(want.ratio));
    out.push(`<line x1="${at}" y1="${y + 1}" x2="${at}" y2="${y + rowHeight - 1}" stroke="#000000" stroke-width="3"/>`);
  }
  const verdict = want === undefined ? "" : want.met ? "  met" : "  MISSED";
  const color = want?.met === false ? colors.missed : colors.line;
  out.push(text(labelWidth + barWidth + 10, middle + 4, `${ratio.median.toFixed(2)} ×${verdict}`, `fill="${color}"`));
  return out;
}

function text(x: number, y: number, content: string, attributes = ""): string {
  const escaped = content.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
  return `<text x="${px(x)}" y="${px(y)}" ${attributes}>${escaped}</text>`;
}

function px(value: number): string {
  return value.toFixed(1);
}

function labelOf(ratio: number): string {
  return ratio >= 1 ? `${ratio} ×` : `1/${1 / ratio}`;
}

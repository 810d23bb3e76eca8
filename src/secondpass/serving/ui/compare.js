// Systems side by side, with intervals, times, prices and licences, from what `secondpass compare --json` wrote.
// Knows: the JSON of a leaderboard (docs/cli.md).

import { ask } from "./api.js";
import { fixed, h, milliseconds, problem, put, signed, table, whole } from "./dom.js";
import { interval, noReports, whiskers } from "./audits.js";

export const title = "Compare";

export async function show(root, { status, values, remember }) {
  if (!status.reports) {
    put(root, h("h1", {}, "Compare"), noReports());
    return null;
  }
  const list = await ask("/v1/reports");
  const boards = list.data.filter((one) => one.kind === "comparison");
  if (!boards.length) {
    put(
      root,
      h("h1", {}, "Compare"),
      h(
        "p",
        {},
        `No comparison in ${list.folder} yet: `,
        h("code", {}, "secondpass compare --collection my-collection --json > reports/compare.json"),
      ),
    );
    return null;
  }
  const wanted = boards.find((one) => one.name === values.get("name")) || boards[0];
  const choice = h(
    "select",
    { id: "board", onchange: () => open(choice.value) },
    boards.map((one) =>
      h(
        "option",
        { value: one.name, selected: one === wanted },
        `${one.name}: ${one.systems.length} systems, ${one.metric}`,
      ),
    ),
  );
  const shown = h("div", {});
  put(root, h("h1", {}, "Compare"), h("p", {}, h("label", { for: "board" }, "Comparison "), choice), shown);
  const open = async (name) => {
    remember({ name });
    try {
      put(shown, board(await ask(`/v1/report?name=${encodeURIComponent(name)}`)));
    } catch (error) {
      put(shown, problem(error));
    }
  };
  await open(wanted.name);
  return null;
}

function board(found) {
  const ends = found.rows.flatMap((row) => [row.mean, ...row.interval]).filter((one) => one !== null);
  const [low, high] = [Math.min(...ends), Math.max(...ends)];
  const scale = [Math.max(low - 0.02, 0), Math.min(high + 0.02, 1)];
  const behind = new Map(
    found.pairs.filter((pair) => pair.better === found.rows[0].name).map((pair) => [pair.worse, pair]),
  );
  const columns = [
    ["rank", "number"],
    ["system", ""],
    [found.metric, "number"],
    ["95 % interval", "whisker"],
    ["to the best [95 % interval]", "number"],
    ["corrected p", "number"],
    ["p50 / p95", "number"],
    ["cost of 1,000", "number"],
    ["recall", "number"],
    ["licence", ""],
  ];
  const rows = found.rows.map((row) => {
    const pair = behind.get(row.name);
    return [
      whole(row.rank),
      h("b", {}, row.name),
      fixed(row.mean, 3),
      whiskers(row.mean, row.interval, scale),
      pair
        ? `${signed(-pair.difference)} ${interval(pair.interval.map((one) => (one === null ? null : -one)).reverse())}`
        : "–",
      pair ? (pair.corrected_p < 0.0001 ? "< 0.0001" : fixed(pair.corrected_p, 4)) : "–",
      row.latency
        ? `${milliseconds(row.latency.p50_ms)} / ${milliseconds(row.latency.p95_ms)}${row.fastest ? " *" : ""}`
        : "–",
      row.per_1000 === null ? "–" : `${fixed(row.per_1000, 3)} ${row.currency}${row.cheapest ? " *" : ""}`,
      fixed(row.recall, 3),
      row.licence || "not known",
    ];
  });
  return [
    h(
      "p.quiet",
      {},
      `${whole(found.queries)} queries, depth ${whole(found.depth)}. Intervals from ${fixed(scale[0], 2)} to ${fixed(scale[1], 2)}.`,
    ),
    table("Systems", columns, rows),
    h(
      "p.quiet",
      {},
      "rank: 1 + the systems that are significantly better (p < .05, corrected by Holm over all pairs), so that systems which cannot be told apart share one. *: no system compared is at least as good and faster (p95), or cheaper.",
    ),
    found.notes.length
      ? h(
          "ul.notes",
          {},
          found.notes.map((note) => h("li", {}, note)),
        )
      : null,
  ];
}

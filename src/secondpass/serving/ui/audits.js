// Audit reports: which there are, and each verdict with its interval, what helped and hurt, and where.
// Knows: the JSON of an audit (docs/audit-json.md). The page that an audit wrote is shown in a frame of its own.

import { answered, ask, hasKey } from "./api.js";
import { counted, fixed, h, milliseconds, percent, problem, put, signed, svg, table, unset, whole } from "./dom.js";

export const title = "Audits";

const TONES = { "WORTH IT": "up", HARMFUL: "down", "NOT WORTH IT": "warn", "TOO SLOW": "warn" };

export async function show(root, { status, values, remember }) {
  if (!status.reports) {
    put(root, h("h1", {}, "Audits"), noReports());
    return null;
  }
  const list = await ask("/v1/reports");
  const audits = list.data.filter((one) => one.kind === "audit");
  const pages = list.data.filter((one) => one.kind === "page");
  const unknown = list.data.filter((one) => one.kind === "unknown");
  const opened = h("div", {});
  const open = async (one) => {
    remember({ name: one.name });
    put(opened, h("p.quiet", { role: "status" }, "…"));
    try {
      put(
        opened,
        one.kind === "page"
          ? await page(one)
          : verdict(await ask(`/v1/report?name=${encodeURIComponent(one.name)}`), one.name),
      );
    } catch (error) {
      put(opened, problem(error));
    }
    opened.firstElementChild?.scrollIntoView({ block: "nearest" });
  };
  const link = (one, text) => h("button.link", { type: "button", onclick: () => open(one) }, text);
  const date = (one) => new Date(1000 * one.at).toLocaleString([], { dateStyle: "medium", timeStyle: "short" });
  put(
    root,
    h("h1", {}, "Audits"),
    h("p.quiet", {}, `${list.folder}: ${counted(audits.length, "audit")}, ${counted(pages.length, "page")}.`),
    audits.length
      ? table(
          "Audits",
          [
            ["audit", ""],
            ["verdict", ""],
            ["", ""],
            ["gain [95 % interval]", "number"],
            ["queries", "number"],
            ["when", "number"],
          ],
          audits.map((one) => [
            link(one, one.name),
            h(`b.${tone(one.decision)}`, {}, one.decision),
            (one.names || []).join(" → "),
            `${signed(one.difference)} ${interval(one.interval)} ${one.metric}`,
            whole(one.queries),
            date(one),
          ]),
        )
      : h(
          "p",
          {},
          "No audit here yet: ",
          h("code", {}, "secondpass audit --collection my-collection --json > reports/today.json"),
        ),
    pages.length
      ? table(
          "Pages",
          [
            ["page", ""],
            ["when", "number"],
          ],
          pages.map((one) => [link(one, one.name), date(one)]),
        )
      : null,
    unknown.length
      ? h(
          "ul.notes",
          {},
          unknown.map((one) => h("li", {}, `${one.name}: ${one.why}`)),
        )
      : null,
    opened,
  );
  const wanted = list.data.find((one) => one.name === values.get("name") && one.kind !== "unknown");
  if (wanted) await open(wanted);
  return null;
}

export function noReports() {
  return unset(
    "No folder of reports",
    ["Audits and comparisons are read from a folder: serve.reports in the settings, or"],
    [
      "mkdir reports\nsecondpass audit --collection my-collection --json > reports/audit.json\nsecondpass compare --collection my-collection --json > reports/compare.json\nsecondpass ui reports",
    ],
  );
}

// the page of an audit, as it was written; where a key is needed a frame cannot send one, so it is handed over as a file
async function page(one) {
  const at = `/v1/report?name=${encodeURIComponent(one.name)}`;
  if (!hasKey()) return h("iframe.report", { src: at, title: one.name, sandbox: "allow-scripts" });
  const file = URL.createObjectURL(await (await answered(at)).blob());
  return h(
    "p",
    {},
    h("a", { href: file, download: one.name }, `Save ${one.name}`),
    " and open it: this server asks for a key, which a frame cannot send.",
  );
}

function tone(decision) {
  return TONES[decision] || "mark";
}

export function interval(ends) {
  return Array.isArray(ends) && ends[0] !== null && ends[1] !== null
    ? `[${signed(ends[0])}, ${signed(ends[1])}]`
    : "[unknown]";
}

// a mean with its interval on a common scale; zero is a line, the smallest gain that matters a dashed one
export function whiskers(value, ends, [low, high], { zero = null, smallest = null } = {}) {
  const x = (one) => (100 * (Math.min(Math.max(one, low), high) - low)) / (high - low || 1);
  const known = Array.isArray(ends) && ends[0] !== null && ends[1] !== null;
  const upright = (one, kind) => svg(`line.${kind}`, { x1: `${x(one)}%`, x2: `${x(one)}%`, y1: 0, y2: 22 });
  return svg(
    "svg.whiskers",
    { height: 22, role: "img", "aria-label": `${fixed(value, 3)} ${interval(ends)}` },
    zero === null ? null : upright(zero, "zero"),
    smallest === null ? null : upright(smallest, "smallest"),
    known ? svg("line.reach", { x1: `${x(ends[0])}%`, x2: `${x(ends[1])}%`, y1: 11, y2: 11 }) : null,
    svg("circle", { cx: `${x(value)}%`, cy: 11, r: 4.5 }),
  );
}

function verdict(found, name) {
  const [first, second] = found.names;
  const gains = found.curve.map((one) => one.value);
  const latency = found.added_latency;
  const facts = [
    [found.metric, `${fixed(found.first, 3)} → ${fixed(found.reranked, 3)}`],
    ["best order of the pool", fixed(found.best, 3)],
    ["headroom captured", found.capture === null ? "–" : percent(found.capture)],
    ["recall of the pool", fixed(found.recall, 3)],
    ["p", fixed(found.p_value, 4)],
    ["queries", `${whole(found.queries)}: ${whole(found.helped)} helped, ${whole(found.hurt)} hurt`],
    ["depth", whole(found.depth)],
    latency
      ? [
          "adds, p50 / p95 / p99",
          `${milliseconds(latency.p50_ms)} / ${milliseconds(latency.p95_ms)} / ${milliseconds(latency.p99_ms)}`,
        ]
      : null,
    found.budget_ms === null ? null : ["budget (p99)", milliseconds(found.budget_ms)],
    ["licence", found.licence || "not known"],
  ];
  const reach = [...found.interval, 0, found.smallest_effect, found.difference].filter((one) => one !== null);
  const pad = 0.1 * (Math.max(...reach) - Math.min(...reach) || 0.1);
  const scale = [Math.min(...reach) - pad, Math.max(...reach) + pad];
  return h(
    "article.verdict-page",
    { "aria-labelledby": "decision" },
    h("p.kicker", {}, `${name}: ${first} → ${second}`),
    h(`h2.${tone(found.decision)}`, { id: "decision" }, found.decision),
    h("p", {}, found.reason),
    h(
      "figure.gain",
      {},
      h(
        "figcaption",
        {},
        `Gain ${signed(found.difference)} ${interval(found.interval)}; upright: zero, dashed: ${signed(found.smallest_effect)}, the smallest that matters`,
      ),
      whiskers(found.difference, found.interval, scale, { zero: 0, smallest: found.smallest_effect }),
    ),
    h(
      "dl.facts",
      {},
      facts.filter(Boolean).map(([term, value]) => h("div", {}, h("dt", {}, term), h("dd", {}, value))),
    ),
    gains.length > 1
      ? [
          h("h3", {}, "By depth"),
          table(
            "By depth",
            [
              ["depth", "number"],
              [found.metric, "number"],
              ["gain [95 % interval]", "number"],
              ["best order", "number"],
              ["recall", "number"],
            ],
            found.curve.map((one) => [
              whole(one.depth),
              fixed(one.value, 3),
              `${signed(one.difference)} ${interval(one.interval)}`,
              fixed(one.best, 3),
              fixed(one.recall, 3),
            ]),
          ),
        ]
      : null,
    found.segments.length
      ? [
          h("h3", {}, "By segment"),
          table(
            "By segment",
            [
              ["segment", ""],
              ["queries", "number"],
              ["gain [95 % interval]", "number"],
              ["", ""],
            ],
            found.segments.map((one) => [
              `${one.grouping}: ${one.name}`,
              whole(one.queries),
              `${signed(one.difference)} ${one.interval ? interval(one.interval) : ""}`,
              one.effect,
            ]),
          ),
        ]
      : null,
    found.diagnosis.counts.length
      ? [
          h("h3", {}, "Why queries lost"),
          table(
            "Why queries lost",
            [
              ["pattern", ""],
              ["queries", "number"],
              ["what it means", "quiet"],
            ],
            found.diagnosis.counts.map((one) => [
              one.kind,
              `${whole(one.queries)} of ${whole(one.checked)}`,
              one.meaning,
            ]),
          ),
        ]
      : null,
    h(
      "div.pair",
      {},
      queries("Helped most", found.outcomes, found.most_helped),
      queries("Hurt most", found.outcomes, found.most_hurt),
    ),
    found.notes.length
      ? [
          h("h3", {}, "Notes"),
          h(
            "ul.notes",
            {},
            found.notes.map((note) => h("li", {}, note)),
          ),
        ]
      : null,
  );
}

function queries(name, outcomes, ids) {
  const rows = ids.map((id) => outcomes.find((one) => one.query_id === id)).filter(Boolean);
  if (!rows.length) return null;
  return h(
    "section",
    {},
    h("h3", {}, name),
    table(
      name,
      [
        ["query", ""],
        ["before → after", "number"],
      ],
      rows.map((one) => [one.query || one.query_id, `${fixed(one.first, 2)} → ${fixed(one.reranked, 2)}`]),
    ),
  );
}

// The server as it runs: traffic, latency against the deadline, what was refused, models; and whether traffic drifts.
// Knows: /metrics (Prometheus' text) and /v1/watch. What happened before this page was opened is known as sums only, so
// courses over time begin with the page, and both are said. Percentiles are estimated from the histogram's buckets.

import { answered, ask } from "./api.js";
import { counted, fixed, h, milliseconds, percent, problem, put, svg, table, unset, whole, words } from "./dom.js";

export const title = "Live";

const EVERY = 2000; // milliseconds
const KEPT = 300; // samples: ten minutes
const MINUTE = 60_000;
const WORK = /rerank|search|score|explain/; // paths that do work
const RANKS = /rerank|search|score/;
const POINTS = [0.5, 0.95, 0.99];

const samples = []; // { at, series }, the newest last
let timer = 0;

export async function show(root, { status }) {
  const head = h("h1", {}, "Live");
  const traffic = h("div", {});
  const drift = h("div", {});
  put(root, head, traffic, drift);
  let gone = false;
  let busy = false;
  const turn = async () => {
    if (busy) return;
    busy = true;
    try {
      const one = { at: Date.now(), series: parsed(await (await answered("/metrics")).text()) };
      const count = (sample) => sum(sample, "secondpass_request_seconds_count");
      if (samples.length && count(one) < count(samples[samples.length - 1])) samples.length = 0; // started anew
      samples.push(one);
      if (samples.length > KEPT) samples.shift();
      if (gone) return;
      put(traffic, trafficOf(status));
      if (status.watch) put(drift, driftOf(await ask("/v1/watch"), status));
    } catch (error) {
      if (!gone) put(traffic, problem(error));
    } finally {
      busy = false;
    }
  };
  if (!status.watch) put(drift, unwatched());
  await turn();
  clearInterval(timer);
  timer = setInterval(() => document.hidden || turn(), EVERY);
  return () => {
    gone = true;
    clearInterval(timer);
  };
}

// Prometheus' text

export function parsed(text) {
  const found = new Map(); // name -> [{ labels, value }]
  for (const line of text.split("\n")) {
    const match = /^([a-zA-Z_:][\w:]*)(\{.*\})? (\S+)/.exec(line);
    if (!match || line.startsWith("#")) continue;
    const labels = {};
    for (const [, name, value] of (match[2] || "").matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g))
      labels[name] = value.replace(/\\(.)/g, (_, one) => (one === "n" ? "\n" : one));
    if (!found.has(match[1])) found.set(match[1], []);
    found.get(match[1]).push({ labels, value: match[3] === "+Inf" ? Infinity : Number(match[3]) });
  }
  return found;
}

function rows(sample, name, keep = () => true) {
  return (sample?.series.get(name) || []).filter((one) => keep(one.labels));
}

function sum(sample, name, keep) {
  return rows(sample, name, keep).reduce((total, one) => total + one.value, 0);
}

function by(sample, name, label, keep) {
  const found = new Map();
  for (const one of rows(sample, name, keep))
    found.set(one.labels[label], (found.get(one.labels[label]) || 0) + one.value);
  return found;
}

const works = (labels) => WORK.test(labels.path);
const served = (labels) => RANKS.test(labels.path) && labels.status === "200"; // explanations have a time of their own

// upper end -> answers up to it, between two samples (from the start, without the first)
function buckets(now, before) {
  const name = "secondpass_request_seconds_bucket";
  const late = by(now, name, "le", served);
  const early = before ? by(before, name, "le", served) : new Map();
  return [...late]
    .map(([end, count]) => [end === "+Inf" ? Infinity : Number(end), count - (early.get(end) || 0)])
    .sort((a, b) => a[0] - b[0]);
}

// the bucket that a percentile lies in, and within it, evenly spread as Prometheus does, an estimate
export function quantile(share, cumulated) {
  const total = cumulated.length ? cumulated[cumulated.length - 1][1] : 0;
  if (!total) return null;
  const rank = share * total;
  let [low, below] = [0, 0];
  for (const [end, count] of cumulated) {
    if (count >= rank) {
      const about = end === Infinity ? Infinity : low + ((end - low) * (rank - below)) / Math.max(count - below, 1e-9);
      return { about, low, high: end };
    }
    [low, below] = [end, count];
  }
  return { about: Infinity, low, high: Infinity };
}

// traffic

function trafficOf(status) {
  const now = samples[samples.length - 1];
  const since = samples.find((one) => now.at - one.at <= MINUTE) || now;
  const seconds = (now.at - since.at) / 1000;
  const count = (sample) => sum(sample, "secondpass_request_seconds_count", works);
  const rate = seconds ? (count(now) - count(since)) / seconds : null;
  const [start, minute] = [buckets(now), buckets(now, since)];
  const times = POINTS.map((share) => [`p${100 * share}`, quantile(share, minute), quantile(share, start)]);
  const asked = sum(now, "secondpass_deadline_requests_total");
  const late = sum(now, "secondpass_deadline_late_total");
  const cut = sum(now, "secondpass_deadline_cut_total");
  const memory = sum(now, "process_resident_memory_bytes");
  const tiles = [
    ["requests", whole(count(now)), rate === null ? "" : `${fixed(rate, 2)} a second in the last minute`],
    [
      "at work now",
      whole(sum(now, "secondpass_requests_in_flight")),
      `${fixed(sum(now, "secondpass_work_ahead_seconds"), 1)} s of work ahead`,
    ],
    [
      "with a deadline",
      whole(asked),
      asked
        ? `${percent(late / asked)} late, ${percent(cut / asked)} cut short`
        : status.deadline_ms === null
          ? "none set for those that name none"
          : `usual: ${milliseconds(status.deadline_ms)}`,
    ],
    [
      "refused",
      whole(sum(now, "secondpass_refused_requests_total")),
      [...by(now, "secondpass_refused_requests_total", "reason")]
        .filter(([, n]) => n)
        .map(([why, n]) => `${words(why)} ${whole(n)}`)
        .join(", "),
    ],
    memory ? ["memory", `${whole(memory / 1e6)} MB`, ""] : null,
  ];
  return [
    h(
      "dl.tiles",
      {},
      tiles
        .filter(Boolean)
        .map(([name, value, more]) => h("div", {}, h("dt", {}, name), h("dd", {}, value, h("span.quiet", {}, more)))),
    ),
    h("div.charts", {}, rates(), latencies(status)),
    h(
      "div.pair",
      {},
      h("section", {}, h("h2", {}, "Answers"), latencyTable(times, status), statuses(now)),
      h("section", {}, h("h2", {}, "Documents and models"), documents(now), models(now), logged(now, status)),
    ),
  ];
}

function latencyTable(times, status) {
  if (times[0][2] === null) return h("p.quiet", {}, "Nothing was answered yet. Search for something, and look again.");
  const cell = (found) => {
    if (found === null) return "–";
    const late = status.deadline_ms !== null && 1000 * found.low >= status.deadline_ms; // the whole bucket is
    const between = `between ${milliseconds(1000 * found.low)} and ${milliseconds(1000 * found.high)}`;
    return h(
      "span",
      { class: late ? "down" : "", title: between },
      `${milliseconds(1000 * found.about)}${late ? " (late)" : ""}`,
    );
  };
  return table(
    "Latency",
    [
      ["latency, about", ""],
      ["last minute", "number"],
      ["since the start", "number"],
    ],
    times.map(([name, last, all]) => [name, cell(last), cell(all)]),
  );
}

function statuses(now) {
  const found = [...by(now, "secondpass_request_seconds_count", "status", works)].sort();
  const meaning = {
    200: "answered",
    400: "not meant",
    401: "no key",
    429: "too much at once",
    499: "the client left",
    503: "not ready",
  };
  return found.length
    ? table(
        "Answers by status",
        [
          ["status", ""],
          ["", ""],
          ["answers", "number"],
        ],
        found.map(([code, count]) => [code, meaning[code] || "", whole(count)]),
      )
    : null;
}

function documents(now) {
  const found = [...by(now, "secondpass_documents_total", "status")].sort((a, b) => b[1] - a[1]);
  const total = found.reduce((all, [, count]) => all + count, 0);
  return total
    ? table(
        "Documents by status",
        [
          ["document", ""],
          ["count", "number"],
          ["share", "number"],
        ],
        found.map(([name, count]) => [words(name), whole(count), percent(count / total)]),
      )
    : null;
}

function models(now) {
  const loads = by(now, "secondpass_model_loads_total", "model");
  const digests = new Map(rows(now, "secondpass_model_info").map((one) => [one.labels.model, one.labels.digest]));
  const ready = rows(now, "secondpass_ready");
  const said = (one) => [
    one.labels.model,
    one.value ? "scores right" : digests.has(one.labels.model) ? "not well" : "not open",
    (digests.get(one.labels.model) || "").slice(0, 12),
    whole(loads.get(one.labels.model) || 0),
  ];
  return table(
    "Models",
    [
      ["model", ""],
      ["golden pairs", ""],
      ["digest", ""],
      ["opened", "number"],
    ],
    ready.map(said),
  );
}

function logged(now, status) {
  if (!status.log) {
    return unset(
      "No log of requests",
      [
        "Nothing that is asked is kept, so there is no traffic to compare, to judge or to learn from later. A log in a file is one option away:",
      ],
      ["secondpass serve --log sqlite:///requests.db"],
    );
  }
  const counts = [...by(now, "secondpass_log_requests_total", "outcome")]
    .filter(([, count]) => count)
    .map(([name, count]) => `${words(name)} ${whole(count)}`);
  return h(
    "p",
    {},
    "Request log: ",
    counts.join(", ") || "nothing yet",
    `; ${whole(sum(now, "secondpass_log_waiting"))} waiting, ${counted(sum(now, "secondpass_log_failures_total"), "failure")}.`,
  );
}

// courses over the time that this page is open

const [WIDE, HIGH] = [600, 150];

function chart(name, said, lines, top, mark, label) {
  const x = (at) =>
    8 +
    ((WIDE - 16) * (at - (samples[0]?.at ?? 0))) /
      Math.max((samples[samples.length - 1]?.at ?? 1) - (samples[0]?.at ?? 0), 1);
  const y = (value) => HIGH - 6 - (HIGH - 30) * Math.min(value / top, 1);
  const path = (points) => {
    let pen = "M";
    return points
      .map(([at, value]) => {
        if (value === null) return ((pen = "M"), "");
        const part = `${pen}${x(at).toFixed(1)} ${y(value).toFixed(1)}`;
        pen = "L";
        return part;
      })
      .join(" ");
  };
  return h(
    "figure.chart",
    {},
    h("figcaption", {}, h("b", {}, name), " ", said),
    svg(
      "svg",
      { viewBox: `0 0 ${WIDE} ${HIGH}`, role: "img", "aria-label": `${name}: ${said}` },
      svg("line.axis", { x1: 0, x2: WIDE, y1: HIGH - 6, y2: HIGH - 6 }),
      svg("line.grid", { x1: 0, x2: WIDE, y1: y(top), y2: y(top) }),
      mark === null ? null : svg("line.limit", { x1: 0, x2: WIDE, y1: y(mark), y2: y(mark) }),
      lines.map(([kind, points]) => svg(`path.${kind}`, { d: path(points) })),
      svg("text", { x: 0, y: y(top) - 4 }, label(top)),
      mark === null ? null : svg("text", { x: WIDE, y: y(mark) - 4, "text-anchor": "end" }, `deadline ${label(mark)}`),
    ),
  );
}

function nice(value) {
  const power = 10 ** Math.floor(Math.log10(Math.max(value, 1e-9)));
  return [1, 2, 5, 10].map((step) => step * power).find((step) => step >= value);
}

const WINDOW = 5; // samples, ten seconds

function course(of) {
  return samples.map((one, at) => (at ? [one.at, of(one, samples[Math.max(at - WINDOW, 0)])] : [one.at, null]));
}

function rates() {
  const points = course(
    (now, before) =>
      (sum(now, "secondpass_request_seconds_count", works) - sum(before, "secondpass_request_seconds_count", works)) /
      ((now.at - before.at) / 1000),
  );
  const most = Math.max(0, ...points.map(([, value]) => value ?? 0));
  const last = points[points.length - 1][1];
  return chart(
    "Requests a second",
    `now ${last === null ? "–" : fixed(last, 1)}, most ${fixed(most, 1)}; ${open()}`,
    [["p50", points]],
    nice(Math.max(most, 1)),
    null,
    (value) => `${value}`,
  );
}

function latencies(status) {
  const lines = POINTS.map((share) => [
    `p${100 * share}`,
    course((now, before) => {
      const found = quantile(share, buckets(now, before));
      return found === null ? null : 1000 * Math.min(found.about, 10);
    }),
  ]);
  const most = Math.max(0, ...lines.flatMap(([, points]) => points.map(([, value]) => value ?? 0)));
  const said = most
    ? `about, p50 whole, p95 dashed, p99 dotted; ${open()}`
    : `nothing answered since this page is open`;
  return chart(
    "Latency",
    said,
    lines,
    nice(Math.max(most, status.deadline_ms ?? 0, 10)),
    status.deadline_ms,
    milliseconds,
  );
}

function open() {
  const seconds = (samples[samples.length - 1].at - samples[0].at) / 1000;
  return seconds < 90 ? `${whole(seconds)} s since opened` : `the last ${whole(seconds / 60)} minutes`;
}

// drift

function unwatched() {
  return unset(
    "Drift is not watched",
    [
      "The server can say when its traffic is no longer what it was audited on, without judgments. It needs a profile of usual traffic: made with an audit, or from a log.",
    ],
    [
      "secondpass audit --collection my-collection --profile profile.json",
      '[watch]\nprofile = "profile.json"   # in secondpass.toml',
    ],
  );
}

function driftOf(state, status) {
  const { requests, profile } = state;
  const alarms = state.alarms.slice().reverse();
  const left = Object.entries(requests)
    .filter(([name, count]) => name !== "watched" && count)
    .map(([name, count]) => `${words(name)} ${whole(count)}`);
  return h(
    "section",
    {},
    h("h2", {}, "Drift"),
    h(
      "p",
      {},
      `${counted(requests.watched, "request")} compared with a profile of ${whole(profile.requests)} (${profile.source || "no source told"}), model ${profile.model}.`,
      left.length ? ` Not compared: ${left.join(", ")}.` : "",
    ),
    h(
      "div.evidence",
      {},
      meter(state.evidence, "Evidence for a change, as a share of the alarm's threshold"),
      h(
        "span",
        {},
        `evidence ${percent(state.evidence)} of what raises an alarm${alarms.length ? ", anew since the last one" : ""}; a false one at most once in ${whole(state.every)} requests`,
      ),
    ),
    alarms.length ? alarms.map((alarm) => alarmOf(alarm, status)) : h("p.quiet", {}, "No alarm."),
    signals(state.signals),
    h("p.quiet", {}, state.note),
  );
}

function short(value) {
  return Number.isFinite(value) ? String(Number(value.toPrecision(3))).replace("-", "−") : "–";
}

function meter(share, name) {
  const shown = Math.min(Math.max(share, 0), 1);
  return h("span.meter", {
    role: "meter",
    "aria-label": name,
    "aria-valuemin": 0,
    "aria-valuemax": 1,
    "aria-valuenow": shown.toFixed(3),
    style: { "--share": shown },
  });
}

function alarmOf(alarm, status) {
  const moved = alarm.moved.map(
    (one) =>
      `${one.signal} ${one.above ? "higher" : "lower"} in ${one.segment || "all traffic"} (median ${short(one.before)} → ${short(one.now)})`,
  );
  return h(
    "section.alarm",
    { role: "alert" },
    h("h3", {}, `Alarm at request ${whole(alarm.query)}, ${new Date(1000 * alarm.at).toLocaleString()}`),
    h("p", {}, `The traffic has changed since about request ${whole(alarm.since)}: ${moved.join("; ")}.`),
    h(
      "p",
      {},
      "What to do: judge a sample of the queries since then, audit on them, and fine-tune if the audit says so.",
    ),
    h(
      "pre",
      { tabindex: 0 },
      `${status.log ? "secondpass watch LOG --pool pool --collection my-collection" : "# keep a log first: secondpass serve --log sqlite:///requests.db"}\nsecondpass judge pool\nsecondpass audit --collection my-collection`,
    ),
  );
}

function signals(found) {
  const sorted = found
    .slice()
    .sort((a, b) => b.evidence - a.evidence)
    .slice(0, 24);
  const cells = (one) => [
    one.signal,
    one.segment || "all traffic",
    `${short(one.before)} → ${short(one.now)}`,
    `${percent(one.share)} (≤ ${percent(one.expected)})`,
    h("span.evidence", {}, meter(one.evidence, `evidence of ${one.signal}`), percent(Math.min(one.evidence, 99))),
    one.what,
  ];
  return table(
    "Signals",
    [
      ["signal", ""],
      ["segment", ""],
      ["median before → now", "number"],
      ["beyond the limit (expected)", "number"],
      ["evidence", ""],
      ["what it is", "quiet"],
    ],
    sorted.map(cells),
  );
}

// Why a document has its score: its text as a heat map, what carries most, whether that can be believed.
// Knows: /v1/explain. Places in texts come in characters (code points), which strings here do not count by.

import { ask } from "./api.js";
import { counted, fixed, h, milliseconds, percent, problem, put, signed, table, words } from "./dom.js";

const STEPS = 5; // shades of each colour
const LEAST = 0.06; // of the scale: what carries less has no colour
const ROWS = 10; // of what carries most
const TIME = 120_000; // milliseconds

export function explain(found, at, model) {
  const one = found.after[at];
  const above = at > 0 ? found.after[at - 1] : null;
  const dialog = document.body.appendChild(h("dialog.sheet", { "aria-labelledby": "explained-title" }));
  const gone = new AbortController();
  const body = h("div", { role: "status" });
  const buttons = h("div.buttons", {});
  put(
    dialog,
    h("form", { method: "dialog", class: "close" }, h("button.plain", { "aria-label": "Close" }, "×")),
    h("p.kicker", {}, found.query),
    h("h2", { id: "explained-title" }, one.title || `Document ${one.id}`),
    anatomy(one, at, found),
    buttons,
    body,
  );
  const run = async (verify, other) => {
    const documents = (other ? [one, other] : [one]).map((each) => ({ text: each.text, title: each.title }));
    // a time of its own: that of a search would end it early
    const asked = { query: found.query, documents, model: found.model, verify, deadline_ms: TIME };
    put(
      body,
      h(
        "p.quiet",
        {},
        verify ? "Deleting words in 100 random orders; this takes some seconds …" : "Taking words out, one at a time …",
      ),
    );
    for (const button of buttons.children) button.disabled = true;
    try {
      const answer = await ask("/v1/explain", asked, gone.signal);
      show(body, answer, other ? [one, other] : [one]);
    } catch (error) {
      if (error.name !== "AbortError") put(body, problem(error));
    } finally {
      for (const button of buttons.children) button.disabled = false;
    }
  };
  dialog.addEventListener("close", () => {
    gone.abort();
    dialog.remove();
  });
  dialog.showModal();
  if (model && model.open && !model.explains) {
    put(
      body,
      h("p", {}, `${found.model} does not compute on this server, so what its scores rest on cannot be measured.`),
    );
    return;
  }
  put(
    buttons,
    h("button", { type: "button", onclick: () => run(true, null) }, "Verify it"),
    above ? h("button", { type: "button", onclick: () => run(false, above) }, `Compare with ${at}, above it`) : null,
  );
  run(false, null);
}

// what its place comes from
function anatomy(one, at, found) {
  const rows = [
    ["place", `${at + 1} of ${found.after.length}${one.first_rank ? `, before ${one.first_rank}` : ""}`],
    ["status", words(one.status)],
    one.relevance === null ? null : ["P(relevant)", fixed(one.relevance, 4)],
    one.score === null ? null : ["score", fixed(one.score, 3)],
    one.first_score === null ? null : ["first stage", fixed(one.first_score, 3)],
    ["id", one.id],
  ];
  return h(
    "dl.facts",
    {},
    rows.filter(Boolean).map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))),
  );
}

function show(root, answer, asked) {
  const most = Math.max(
    0,
    ...answer.documents.flatMap((one) => one.explanation.units.map((unit) => Math.abs(unit.value ?? 0) / unit.words)),
  );
  const parts = answer.documents.map((one, number) => [
    answer.documents.length > 1
      ? h("h3", {}, `${"AB"[number]}: ${asked[number].title || `document ${asked[number].id}`}`)
      : null,
    explained(one, most),
  ]);
  if (answer.logits_apart !== null && answer.logits_apart !== undefined) {
    const apart = answer.logits_apart;
    parts.unshift(
      h(
        "p",
        {},
        `By their texts alone A is ${fixed(Math.abs(apart), 2)} logits ${apart >= 0 ? "ahead of" : "behind"} B. Both have one scale of colours.`,
      ),
    );
  }
  put(root, parts);
}

function explained(one, most) {
  const found = one.explanation;
  const detail = found.detail;
  const facts = [
    found.score === null ? null : ["logit", fixed(found.score, 3)],
    ["model", `${detail.model ?? ""} ${String(detail.digest ?? "").slice(0, 12)}`.trim()],
    ["licence", detail.licence || "not stated"],
    ["engine", `${detail.engine ?? ""} ${detail.precision ?? ""}`.trim()],
    ...Object.entries(one.exits).map(([layer, logit]) => [`logit at ${layer}`, fixed(logit, 3)]),
    ["measured by", `${counted(found.variants, "variant")} of the text, ${milliseconds(1000 * found.seconds)}`],
  ];
  return [
    found.units.length ? believed(found) : h("p", {}, `Without a score: ${words(found.status)}.`),
    found.units.length ? heat(found, most) : null,
    found.notes.length
      ? h(
          "ul.notes",
          {},
          found.notes.map((note) => h("li", {}, note)),
        )
      : null,
    found.units.length ? strongest(found) : null,
    h(
      "dl.facts",
      {},
      facts.filter(Boolean).map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))),
    ),
  ];
}

function level(unit, most) {
  if (unit.value === null || !most) return 0;
  const share = unit.value / unit.words / most;
  return Math.abs(share) < LEAST ? 0 : Math.sign(share) * Math.round(Math.max(Math.abs(share) * STEPS, 1));
}

function shade(step) {
  return step === 0 ? "" : `${step > 0 ? "for" : "against"}-${Math.abs(step)}`;
}

// the text with its colours; for it is underlined, against it dashed, so that colour never says it alone
function heat(found, most) {
  const characters = Array.from(found.text);
  const part = (start, end) => characters.slice(start, end).join("");
  const [start, end] = found.span;
  const marks = found.units.map((unit) => {
    const text = part(unit.start, unit.end);
    const step = level(unit, most);
    const said = unit.value === null ? "not measured" : signed(unit.value);
    const [before, behind] = [text.length - text.trimStart().length, text.trimEnd().length]; // no colour on space
    return step && behind
      ? [text.slice(0, before), h("mark", { class: shade(step), title: said }, text.trim()), text.slice(behind)]
      : text;
  });
  // units need not touch: what lies between two of them is shown as it is
  const pieces = [];
  let at = start;
  found.units.forEach((unit, number) => {
    if (unit.start > at) pieces.push(part(at, unit.start));
    pieces.push(marks[number]);
    at = unit.end;
  });
  if (at < end) pieces.push(part(at, end));
  const scale = [-STEPS, -3, -1, 1, 3, STEPS].map((step) =>
    h("mark", { class: shade(step) }, signed((step / STEPS) * most, 2)),
  );
  return [
    h(
      "div.heat",
      { tabindex: 0, role: "region", "aria-label": "The text with what each part carries" },
      start > 0 ? h("s", {}, part(0, start)) : null,
      pieces,
      end < characters.length ? h("s", {}, part(end)) : null,
    ),
    h(
      "p.scale",
      {},
      "against it (dashed) ",
      scale,
      " for it (underlined), logits a word",
      start > 0 || end < characters.length ? "; struck out: never read" : "",
    ),
  ];
}

function believed(found) {
  const held = found.verification;
  const said = {
    verified: () =>
      `deleting words in this order lowers the logit sooner than ${percent(held.beaten)} of ${held.orders} random orders do.`,
    unverified: () =>
      `it beats only ${percent(held.beaten)} of ${held.orders} random orders, not the median one. Do not rely on it.`,
    "not verified": () => "it was not held against random orders.",
  }[found.label];
  return h(`p.verdict.${found.label.replace(" ", "-")}`, {}, h("b", {}, found.label), `: ${said()}`);
}

function strongest(found) {
  const characters = Array.from(found.text);
  const known = found.units
    .filter((unit) => unit.value)
    .sort((a, b) => Math.abs(b.value) - Math.abs(a.value))
    .slice(0, ROWS);
  const rows = known.map((unit) => [characters.slice(unit.start, unit.end).join("").trim(), signed(unit.value)]);
  return h(
    "details",
    {},
    h("summary", {}, "What carries most"),
    table(
      "What carries most",
      [
        ["part", "words"],
        ["logits", "number"],
      ],
      rows,
    ),
  );
}

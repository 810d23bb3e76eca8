// Elements, numbers and words for the page.
// Knows: the DOM. Every text goes in as a text node, so nothing that a document holds can become markup.

const SVG = "http://www.w3.org/2000/svg";

function filled(element, properties, children) {
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "value" || name === "checked" || name === "textContent") element[name] = value;
    else if (name === "style") for (const [key, one] of Object.entries(value)) element.style.setProperty(key, one);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...children.flat(Infinity).filter((one) => one !== null && one !== undefined && one !== false));
  return element;
}

// h("p.quiet", { id: "a" }, "text", element, …)
export function h(tag, properties = {}, ...children) {
  const [name, ...classes] = tag.split(".");
  const element = document.createElement(name);
  if (classes.length) element.className = classes.join(" ");
  return filled(element, properties, children);
}

export function svg(tag, properties = {}, ...children) {
  const [name, ...classes] = tag.split(".");
  const element = document.createElementNS(SVG, name);
  if (classes.length) element.setAttribute("class", classes.join(" "));
  return filled(element, properties, children);
}

export function put(parent, ...children) {
  parent.replaceChildren(
    ...children.flat(Infinity).filter((one) => one !== null && one !== undefined && one !== false),
  );
  return parent;
}

// a table in a frame that scrolls sideways; cells are texts or elements, columns [title, class]
export function table(name, columns, rows) {
  const head = columns.map(([title, kind]) => h("th", { scope: "col", class: kind }, title));
  const body = rows.map((row) =>
    h(
      "tr",
      {},
      row.map((cell, at) => h("td", { class: columns[at][1] }, cell)),
    ),
  );
  return h(
    "div.wide",
    { role: "region", "aria-label": name, tabindex: 0 },
    h("table", {}, h("thead", {}, h("tr", {}, head)), h("tbody", {}, body)),
  );
}

const plain = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });

export function whole(value) {
  return plain.format(value);
}

export function counted(value, one, many = `${one}s`) {
  return `${whole(value)} ${value === 1 ? one : many}`;
}

export function fixed(value, digits = 2) {
  return typeof value === "number" && Number.isFinite(value) ? value.toFixed(digits).replace("-", "−") : "–";
}

export function signed(value, digits = 3) {
  if (typeof value !== "number" || !Number.isFinite(value)) return "–";
  return `${value > 0 ? "+" : ""}${fixed(value, digits)}`;
}

export function milliseconds(value) {
  if (typeof value !== "number" || Number.isNaN(value)) return "–";
  if (value === Infinity) return "> 10 s";
  return value >= 9.95 ? `${whole(value)} ms` : `${fixed(value, 1)} ms`;
}

export function percent(share) {
  if (!Number.isFinite(share)) return "–";
  const shown = Math.round(100 * share);
  if (shown === 0 && share > 0) return "< 1 %";
  if (shown === 100 && share < 1) return "> 99 %";
  return `${shown} %`;
}

export function words(status) {
  return String(status).replaceAll("_", " ");
}

// the first `most` characters, without cutting one in two
export function beginning(text, most) {
  const cut = text.slice(0, 2 * most);
  const characters = Array.from(cut);
  return characters.length > most
    ? `${characters.slice(0, most).join("")}…`
    : text.length > cut.length
      ? `${cut}…`
      : cut;
}

export function problem(error) {
  return h("p.error", { role: "alert" }, error instanceof Error ? error.message : String(error));
}

// what is not set up, and how to do so
export function unset(title, lines, commands) {
  return h(
    "section.unset",
    {},
    h("h2", {}, title),
    lines.map((line) => h("p", {}, line)),
    commands.map((command) => h("pre", { tabindex: 0 }, command)),
  );
}

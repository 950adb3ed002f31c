// The page around the viewer. Everything that came with a sample is set as text, never as markup.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent), cards = data.cards;
  const byId = id => document.getElementById(id);
  const make = (tag, kind, text, parent) => {
    const node = document.createElement(tag);
    if (kind) node.className = kind;
    if (text) node.textContent = text;
    if (parent) parent.append(node);
    return node;
  };
  const picture = (address, text, parent) => { const image = make("img", "", "", parent); image.src = address; image.alt = text; return image; };
  const verdict = card => card.valid === null ? "not judged" : card.valid ? "valid" : card.reason ? `not valid: ${card.reason}` : "not valid";
  const tone = card => card.valid === null ? "quiet" : card.valid ? "good" : "bad";
  const name = card => /^\d+$/.test(card.id) ? `#${card.id}` : card.id;  // a bare number is a place in the run
  const viewer = new Viewer(byId("canvas"), data.elements);
  let current = -1;

  const buttons = cards.map((card, i) => {
    const button = make("button", "", "", byId("list"));
    button.type = "button"; button.title = `${card.domain} ${card.id}: ${verdict(card)}`;
    picture(card.thumbnail, `${card.domain} ${card.id}`, button);
    make("div", "formula", card.formula || "no atoms", button);
    make("div", "quiet", `${name(card)} · ${card.atoms} atoms`, button);
    make("div", tone(card), verdict(card), button);
    button.addEventListener("click", () => select(i));
    return button;
  });

  function table(parent, title, rows, tones) {
    if (!rows.length) return;
    const body = make("table", "", "", parent), head = make("tr", "", "", body);
    const cell = make("th", "", title, head); cell.colSpan = 3;
    rows.forEach((row, i) => { const line = make("tr", "", "", body); row.forEach((text, k) => make("td", tones && k === 1 ? tones[i] : "", text, line)); });
  }

  function select(i) {
    current = i;
    buttons.forEach((button, k) => button.setAttribute("aria-current", String(k === i)));
    const card = cards[i], about = byId("about");
    viewer.show(card.scene);
    byId("canvas").setAttribute("aria-label", `${card.domain} ${card.id}, ${card.formula}`);
    about.replaceChildren();
    make("h2", "", `${card.formula || "no atoms"} · ${name(card)}`, about);
    make("p", tone(card), verdict(card), about);
    if (card.unseen) make("p", "quiet", `no picture: ${card.unseen}`, about);
    if (card.spacegroup) make("p", "", `spacegroup ${card.spacegroup}`, about);
    if (card.cell) make("p", "quiet", card.cell, about);
    const legend = make("div", "legend", "", about);
    for (const [number, count] of card.elements) {
      const element = data.elements[number], entry = make("span", "", "", legend);
      make("span", "swatch", "", entry).style.background = `rgb(${element.colour.map(v => Math.round(255 * v)).join()})`;
      entry.append(`${element.symbol} × ${count}`);
    }
    if (card.flat) picture(card.flat, `drawing of ${card.formula}`, about).className = "flat";
    if (card.flat_note) make("p", "quiet", card.flat_note, about);
    const tones = { passed: "good", failed: "bad", "not asked": "quiet" };
    table(about, "checks", card.checks, card.checks.map(row => tones[row[1]]));
    table(about, "values", card.facts);
  }

  function filter() {
    const domain = byId("domain").value, valid = byId("verdict").value;
    let shown = 0;
    cards.forEach((card, i) => {
      const keep = (!domain || card.domain === domain) && (!valid || String(card.valid) === valid);
      buttons[i].hidden = !keep; buttons[i].style.display = keep ? "" : "none"; shown += keep;
    });
    byId("shown").textContent = `${shown} of ${cards.length} samples on this page`;
    if (current < 0 || buttons[current].hidden) { const first = buttons.findIndex(button => !button.hidden); if (first >= 0) select(first); }
  }

  byId("domain").addEventListener("change", filter);
  byId("verdict").addEventListener("change", filter);
  document.addEventListener("keydown", event => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (!step || event.target.tagName === "SELECT") return;
    const places = cards.map((_, i) => i).filter(i => !buttons[i].hidden), at = places.indexOf(current);
    const next = places[Math.min(places.length - 1, Math.max(0, at + step))];
    if (next === undefined) return;
    event.preventDefault(); select(next); buttons[next].scrollIntoView({ block: "nearest" });
  });
  filter();
})();

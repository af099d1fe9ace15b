"use strict";
const sheet = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const cells = [...document.querySelectorAll(".cell")];
const keyOf = (cell) => cell.dataset.cell;
const place = (cell) => keyOf(cell).split("-").map(Number);
for (const hidden of document.querySelectorAll(".tools, .keys")) hidden.hidden = false;

// ---- moving: one cell is in the tab order, arrow keys go to its neighbours

let current = cells[0];
let kept = null;
let large = null;

function moveTo(cell) {
  current.tabIndex = -1;
  current = cell;
  current.tabIndex = 0;
  if (viewer.open) show();
  else current.focus();
}

function neighbour(cell, dx, dy) {
  const seen = cells.filter((one) => !one.closest("tr").hidden);
  const [block, row, column] = place(cell);
  if (dx) {
    const line = seen.filter((one) => place(one)[0] === block && place(one)[1] === row);
    return line[line.indexOf(cell) + dx] || cell;
  }
  const order = ([b, r]) => b * 1e6 + r;
  const here = order([block, row]);
  const others = seen.filter((one) => (order(place(one)) - here) * dy > 0);
  const far = (one) => Math.abs(order(place(one)) - here) * 100 + Math.abs(place(one)[2] - column);
  return others.reduce((best, one) => (best === null || far(one) < far(best) ? one : best), null) || cell;
}

const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input")) return;
  if (ballot.open) return onBallotKey(event);
  if (!viewer.open && !event.target.matches(".cell")) return;
  if (event.key in ARROWS) moveTo(neighbour(current, ...ARROWS[event.key]));
  else if (event.key.toLowerCase() === "p") keep(current);
  else return;
  event.preventDefault();
}

function keep(cell) {
  if (kept) kept.classList.remove("kept");
  kept = kept === cell ? null : cell;
  if (kept) kept.classList.add("kept");
  if (viewer.open) show();
}

// ---- the viewer: the kept picture beside the current one

const viewer = byId("viewer");

function pane(cell, isKept) {
  const made = byId("pane").content.cloneNode(true).querySelector("figure");
  const data = sheet.cells[keyOf(cell)];
  const source = cell.querySelector("img");
  const image = made.querySelector("img");
  image.alt = data.alt;
  if (source) [image.src, image.className] = [source.src, source.className];
  made.classList.toggle("kept", isKept);
  made.querySelector("b").textContent = data.alt;
  for (const [name, value] of data.settings) {
    made.querySelector("dl").append(element("dt", name), element("dd", value));
  }
  made.querySelector("code").textContent = data.command;
  made.querySelector("code").hidden = !data.command;
  return made;
}

function element(kind, text) {
  const made = document.createElement(kind);
  made.textContent = text;
  return made;
}

function show() {
  large = current;
  const both = kept && kept !== current ? [pane(kept, true), pane(current, false)] : [pane(current, kept === current)];
  viewer.querySelector(".panes").replaceChildren(...both);
}

for (const cell of cells) {
  cell.tabIndex = cell === current ? 0 : -1;
  cell.addEventListener("focus", () => {
    current.tabIndex = -1;
    current = cell;
    current.tabIndex = 0;
  });
  cell.addEventListener("click", () => {
    moveTo(cell);
    show();
    viewer.showModal();
  });
}
viewer.addEventListener("close", () => moveTo(large)); // the browser itself goes back to where it was opened
viewer.addEventListener("click", (event) => event.target === viewer && viewer.close());
document.addEventListener("keydown", onKey);

byId("find").addEventListener("input", (event) => {
  const wanted = event.target.value.trim().toLowerCase();
  for (const row of document.querySelectorAll("tbody tr")) {
    row.hidden = !row.querySelector("th").textContent.toLowerCase().includes(wanted);
  }
});

// ---- blind votes: kept in this browser under the sheet's identity, exported as a file

const ballot = byId("ballot");
const STORE = "lorafleet-votes-" + sheet.id;
let votes = load();
let asked = null;

function load() {
  try {
    return JSON.parse(localStorage.getItem(STORE)) || [];
  } catch {
    return [];
  }
}

function save() {
  try {
    localStorage.setItem(STORE, JSON.stringify(votes));
  } catch {
    byId("says").textContent = "This browser keeps nothing for this page: export the votes before you close it.";
  }
  count();
}

const labelOf = (contestant) => `${contestant.adapter} ${contestant.settings}`.trim();
const pairOf = (a, b) => [a, b].sort().join(" | ");

/** Every pair that may be asked: two contestants' pictures of one prompt, seed and setting. */
function allPairs() {
  const among = new Map();
  for (const [key, cell] of Object.entries(sheet.cells)) {
    if (cell.contestant) among.set(cell.among, [...(among.get(cell.among) || []), key]);
  }
  const pairs = [];
  for (const group of among.values()) {
    group.forEach((a, i) => {
      for (const b of group.slice(i + 1)) {
        const names = [a, b].map((key) => labelOf(sheet.cells[key].contestant));
        if (names[0] !== names[1]) pairs.push({ cells: [a, b], pair: pairOf(...names), question: pairOf(a, b) });
      }
    });
  }
  return pairs;
}

const PAIRS = allPairs();
const random = (n) => Math.floor((crypto.getRandomValues(new Uint32Array(1))[0] / 2 ** 32) * n);
const open = () => PAIRS.filter((one) => !votes.some((vote) => vote.question === one.question));

/** Of the questions that are open one of the contestants with the fewest votes, at random; sides at random. */
function draw() {
  const asks = (one) => votes.filter((vote) => vote.pair === one.pair).length;
  const left = open();
  const fewest = Math.min(...left.map(asks));
  const drawn = left.filter((one) => asks(one) === fewest);
  if (!drawn.length) return null;
  const one = drawn[random(drawn.length)];
  return random(2) ? one : { ...one, cells: [...one.cells].reverse() };
}

const pictureOf = (key) => document.querySelector(`[data-cell="${key}"] img`);

function ask() {
  asked = draw();
  const pair = ballot.querySelector(".pair");
  pair.hidden = ballot.querySelector('[data-vote="equal"]').hidden = !asked;
  byId("question").textContent = asked ? "Which is better?" : "Every pair has your vote.";
  byId("prompt").textContent = asked ? sheet.cells[asked.cells[0]].asked : "Export the votes, then: lorafleet votes FILE";
  byId("subject").hidden = true;
  count();
  if (!asked) return;
  [...pair.querySelectorAll("img")].forEach((image, i) => {
    const source = pictureOf(asked.cells[i]);
    [image.src, image.className] = [source.src, source.className];
  });
  const [block, row] = asked.cells[0].split("-");
  const photo = pictureOf(`${block}-${row}-0`);
  if (photo && !sheet.cells[`${block}-${row}-0`].command) {
    [byId("subject").querySelector("img").src, byId("subject").hidden] = [photo.src, false];
  }
}

function vote(winner) {
  if (!asked) return;
  const [left, right] = asked.cells.map((key) => sheet.cells[key]);
  votes.push({
    id: identifier(), left: left.contestant, right: right.contestant, winner, prompt: left.prompt, seed: left.seed,
    at: new Date().toISOString(), voter: byId("voter").value.trim(), pair: asked.pair, question: asked.question,
  });
  save();
  ask();
}

function identifier() {
  return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

function undo() {
  if (!votes.length) return;
  votes.pop();
  save();
  ask();
}

function onBallotKey(event) {
  const keys = { ArrowLeft: "left", ArrowRight: "right", ArrowDown: "equal" };
  if (event.repeat) return;
  if (event.key in keys) vote(keys[event.key]);
  else if (event.key === "Backspace") undo();
  else return;
  event.preventDefault();
}

function count() {
  byId("export").disabled = !votes.length;
  byId("export").textContent = votes.length ? `Export ${votes.length} votes` : "Export votes";
  byId("count").textContent = `${votes.length} voted, ${open().length} left`;
  byId("undo").disabled = !votes.length;
}

function exported() {
  const { format, sheet: title, submissions, adapters } = sheet;
  const plain = votes.map(({ pair, question, ...vote }) => vote);
  return JSON.stringify({ format, sheet: title, submissions, adapters, votes: plain }, null, 1);
}

if (byId("start")) {
  byId("start").addEventListener("click", () => {
    ask();
    ballot.showModal();
    byId("question").focus();
  });
  byId("export").addEventListener("click", () => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([exported()], { type: "application/json" }));
    link.download = `${sheet.name}-votes.json`;
    link.click();
    byId("says").textContent = `Saved as ${link.download}. Then: lorafleet votes ${link.download}`;
  });
  for (const button of ballot.querySelectorAll("[data-vote]")) {
    button.addEventListener("click", () => vote(button.dataset.vote));
  }
  byId("undo").addEventListener("click", undo);
  byId("done").addEventListener("click", () => ballot.close());
  count();
}

"use strict";
// The study, this rater's votes, and what is on the screen. Prompts and names reach the page as textContent only.

const KIND = "StudyVotes/1";
const PAUSE_MS = 180; // how long a choice is shown before the next pair; taps in between do not count

const study = JSON.parse(document.getElementById("data").textContent);
const pairs = new Map(study.parts.flat().map((pair) => [pair.id, pair]));
// What is asked of every pair, one after the other; fields that are absent stay out of the file.
const asked = study.questions.flatMap(({ name }) => {
  const question = name === null ? {} : { question: name };
  return study.graded ? ["left", "right"].map((picture) => ({ ...question, picture })) : [question];
});
const key = `drtune-study-${study.study}`;

let state = null; // {kind, study, rater, seed, votes}, which is also the file; null before the start
let order = []; // what is asked in this rater's order: votes that have no choice or grade yet
let pausing = false;
let kept = true; // whether the browser keeps the votes

const element = (id) => document.getElementById(id);

// ---------------------------------------------------------------- the rater's order

/** Numbers in [0, 1) that hang on the 32-bit seed alone, by a Weyl sequence and a mixing of its bits. */
function randomFrom(seed) {
  let weyl = seed >>> 0;
  return () => {
    weyl = (weyl + 0x9e3779b9) >>> 0;
    let bits = weyl;
    bits = Math.imul(bits ^ (bits >>> 16), 0x85ebca6b);
    bits = Math.imul(bits ^ (bits >>> 13), 0xc2b2ae35);
    return ((bits ^ (bits >>> 16)) >>> 0) / 2 ** 32;
  };
}

/** What a vote answers, as one text. */
const slotOf = ({ pair, question, picture }) => JSON.stringify([pair, question, picture]);
const answerOf = (vote) => (study.graded ? String(vote.grade) : vote.choice);

/** Part after part, so that a repeat stays far from what it repeats; within a part shuffled. */
function orderOf(seed) {
  const random = randomFrom(seed);
  return study.parts.flatMap((part) => {
    const ids = part.map((pair) => pair.id);
    for (let last = ids.length - 1; last > 0; last--) {
      const drawn = Math.floor(random() * (last + 1));
      [ids[last], ids[drawn]] = [ids[drawn], ids[last]];
    }
    return ids.flatMap((pair) => asked.map((what) => ({ pair, ...what })));
  });
}

/** What is not answered yet, the next one first. */
function open() {
  const answered = new Set(state.votes.map(slotOf));
  return order.filter((one) => !answered.has(slotOf(one)));
}

// ---------------------------------------------------------------- keeping, saving and reading votes

/** Why `votes` cannot be gone on with here, or "" when it can. */
function problemOf(votes) {
  if (votes === null || typeof votes !== "object" || votes.kind !== KIND) return "This is not a file with votes.";
  if (votes.study !== study.study) return "These votes belong to another study.";
  const slots = new Set([...pairs.keys()].flatMap((pair) => asked.map((what) => slotOf({ pair, ...what }))));
  const whole =
    typeof votes.rater === "string" && cleaned(votes.rater) === votes.rater && votes.rater !== "" &&
    Number.isInteger(votes.seed) && votes.seed >= 0 && votes.seed < 2 ** 32 && Array.isArray(votes.votes) &&
    votes.votes.every((vote) => vote !== null && study.choices.includes(answerOf(vote)) && slots.delete(slotOf(vote)));
  return whole ? "" : "This file with votes is damaged.";
}

/** A rater's name as one short line. */
function cleaned(name) {
  return [...name.replace(/[\p{Cc}\p{Cs}\p{Zl}\p{Zp}]/gu, " ").trim()].slice(0, 100).join("").trim();
}

function take(votes) {
  state = votes && {
    kind: KIND,
    study: study.study,
    rater: votes.rater,
    seed: votes.seed,
    votes: votes.votes.map(({ pair, question, picture, choice, grade }) => ({ pair, question, picture, choice, grade })),
  };
  order = state ? orderOf(state.seed) : [];
}

function keep() {
  try {
    if (state) localStorage.setItem(key, JSON.stringify(state));
    else localStorage.removeItem(key);
    kept = true;
  } catch {
    kept = false;
  }
}

function recall() {
  try {
    const kept = JSON.parse(localStorage.getItem(key));
    take(kept !== null && problemOf(kept) === "" ? kept : null);
  } catch {
    take(null);
  }
}

function exportVotes() {
  const name = state.rater.toLowerCase().replace(/[^a-z0-9]+/g, "-").replace(/^-|-$/g, "") || "rater";
  const link = document.createElement("a");
  link.download = `votes-${name}-${study.study.slice(0, 8)}.json`;
  link.href = URL.createObjectURL(new Blob([JSON.stringify(state, null, 1) + "\n"], { type: "application/json" }));
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  element("saved").textContent = `Saved as ${link.download}, where this browser keeps its downloads. Send this file back.`;
  if (open().length) notice(`Saved as ${link.download}: ${state.votes.length} of ${order.length} votes.`);
}

async function importVotes(file) {
  let votes = null;
  try {
    votes = JSON.parse(await file.text());
  } catch {
    // What is no JSON is no file with votes, which is told below.
  }
  const problem = problemOf(votes);
  if (problem) return notice(`${file.name}: ${problem}`);
  const replaced = state?.votes.length ?? 0;
  if (replaced && !confirm(`Replace the ${replaced} votes in this browser with the ${votes.votes.length} in the file?`)) return;
  take(votes);
  keep();
  show();
}

// ---------------------------------------------------------------- what a rater does

function begin(event) {
  event.preventDefault();
  const rater = cleaned(element("rater").value);
  if (!rater) return notice("Please give a name or a pseudonym.");
  take({ rater, seed: crypto.getRandomValues(new Uint32Array(1))[0], votes: [] });
  keep();
  show();
}

function choose(choice) {
  const [next] = state ? open() : [];
  if (!next || pausing || !study.choices.includes(choice)) return;
  state.votes.push({ ...next, ...(study.graded ? { grade: Number(choice) } : { choice }) });
  keep();
  pausing = true;
  const chosen = document.querySelector(`[data-choice="${choice}"]`);
  chosen.classList.add("chosen");
  setTimeout(() => {
    chosen.classList.remove("chosen");
    pausing = false;
    show();
  }, PAUSE_MS);
}

function undo() {
  if (!state || pausing || !state.votes.pop()) return;
  keep();
  show();
}

function restart() {
  const number = state.votes.length;
  if (number && !confirm(`Start over? The ${number} votes in this browser are removed; those in a saved file are not.`)) return;
  take(null);
  keep();
  element("rater").value = "";
  show();
}

const actions = { undo, restart, export: exportVotes, import: () => element("file").click() };

// ---------------------------------------------------------------- what is on the screen

function show() {
  const left = state ? open() : [];
  const screen = !state ? "start" : left.length ? "vote" : "end";
  const changed = element(screen).hidden;
  for (const id of ["start", "vote", "end"]) element(id).hidden = id !== screen;
  for (const who of document.querySelectorAll(".who")) who.textContent = state?.rater ?? "";
  element("menu").open = false;
  element("saved").textContent = "";
  element("notice").hidden = true;
  if (!kept) notice("This browser keeps nothing for this page: save your votes to a file before you close it.");
  if (screen === "vote") showPair(left);
  if (changed) element(screen).querySelector("h1").focus();
}

function showPair(left) {
  const [next] = left;
  const pair = pairs.get(next.pair);
  const number = pairs.size - new Set(left.map((one) => one.pair)).size + 1;
  const { text } = study.questions.find(({ name }) => name === (next.question ?? null));
  const letter = { left: "A", right: "B" }[next.picture] ?? "";
  element("prompt").textContent = pair.prompt;
  element("prompt").scrollTop = 0;
  element("left").src = study.pictures[pair.left];
  element("right").src = study.pictures[pair.right];
  element("question").textContent = text;
  element("which").textContent = letter;
  element("which").hidden = !letter;
  for (const figure of document.querySelectorAll("[data-side]")) figure.classList.toggle("asked", figure.dataset.side === next.picture);
  element("count").textContent = `${number} of ${pairs.size}`;
  element("progress").max = order.length;
  element("progress").value = state.votes.length;
  element("undo").disabled = !state.votes.length;
  element("announce").textContent = `Pair ${number} of ${pairs.size}: ${pair.prompt}` + (asked.length > 1 ? `. ${letter} ${text}` : "");
  const following = left.find((one) => one.pair !== next.pair);
  for (const side of following ? ["left", "right"] : []) new Image().src = study.pictures[pairs.get(following.pair)[side]]; // decodes ahead
}

function notice(text) {
  element("notice").textContent = text;
  element("notice").hidden = false;
}

// ---------------------------------------------------------------- wiring

const keys = {
  a: () => choose("left"), arrowleft: () => choose("left"),
  b: () => choose("right"), arrowright: () => choose("right"),
  t: () => choose("tie"),
  u: undo, backspace: undo,
};
for (const grade of study.graded ? study.choices : []) keys[grade] = () => choose(grade);

document.addEventListener("keydown", (event) => {
  const pressed = event.key.toLowerCase();
  if (event.key === "Escape") element("menu").open = false;
  if (event.repeat || event.altKey || event.target.matches("input")) return;
  if (event.ctrlKey || event.metaKey) {
    if (pressed === "z") undo();
  } else if (state && Object.hasOwn(keys, pressed)) {
    event.preventDefault();
    keys[pressed]();
  }
});

document.addEventListener("click", (event) => {
  if (!event.target.closest("#menu")) element("menu").open = false;
  const button = event.target.closest("button");
  if (!button) return;
  element("notice").hidden = true;
  if (button.dataset.choice) choose(button.dataset.choice);
  if (button.dataset.do) {
    element("menu").open = false;
    actions[button.dataset.do]();
  }
});

element("begin").addEventListener("submit", begin);
element("file").addEventListener("change", async (event) => {
  const [file] = event.target.files;
  if (file) await importVotes(file);
  event.target.value = ""; // so that the same file can be chosen again
});

addEventListener("beforeunload", (event) => {
  if (!kept && state?.votes.length) event.preventDefault(); // the browser asks whether to leave
});

// The same page in another tab: the votes are those of whoever voted last.
addEventListener("storage", (event) => {
  if (event.key !== key) return;
  recall();
  show();
});

recall();
show();

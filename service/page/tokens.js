// An answer as its tokens: each marked by where it comes from, and under each step its draft's three lengths.

export const SIGNS = {
  draft: "Accepted draft",
  bonus: "Bonus",
  corrected: "Corrected",
  plain: "Plain",
};

// What each sign means, for the legend's tooltips.
export const MEANINGS = {
  draft: "proposed by the drafter, verified and kept",
  bonus: "the target's own token after a draft of which all that was verified was kept",
  corrected: "the target's own token in the place of a draft that was rejected",
  plain: "a step without drafts",
};

// Return where the index-th token of a step comes from: drafts that were kept lead, one token of the target's ends it.
export function signOf(step, index) {
  if (index < step.num_drafts) return "draft";
  if (!step.verified) return "plain";
  return step.num_drafts === step.verified ? "bonus" : "corrected";
}

export class Counts {
  constructor() {
    Object.assign(this, { draft: 0, bonus: 0, corrected: 0, plain: 0, tokens: 0, steps: 0, rounds: 0, verified: 0 });
    this.drafted = 0;
    this.perStep = [];
  }

  add(step) {
    this.steps += 1;
    this.tokens += step.token_ids.length;
    this.verified += step.verified;
    this.drafted += step.drafted ?? step.verified;
    if (step.verified) {
      this.rounds += 1;
      this.perStep.push([step.verified, step.num_drafts]);
    }
    step.token_ids.forEach((_, index) => (this[signOf(step, index)] += 1));
  }

  // Return what differs from what the server counted of the same answer; nothing if all is the same.
  differences(usage, told) {
    const pairs = [
      ["tokens", this.tokens, usage.completion_tokens],
      ["drafts verified", this.verified, told.num_draft_tokens],
      ["drafts accepted", this.draft, told.num_accepted_draft_tokens],
      ["steps that verified drafts", this.rounds, told.num_spec_steps],
      ["drafts verified by step", this.perStep.map(([v]) => v).join(), (told.per_step_drafted ?? []).join()],
      ["drafts accepted by step", this.perStep.map(([, a]) => a).join(), (told.per_step_accepted ?? []).join()],
    ];
    return pairs.filter(([, ours, theirs]) => ours !== theirs).map(([name]) => name);
  }
}

// Draws steps into an element, as text and nothing but text.
export class AnswerView {
  constructor(element) {
    this.element = element;
    this.clear();
  }

  clear() {
    this.element.replaceChildren();
    this.counts = new Counts();
    this.text = "";
  }

  add(step) {
    this.counts.add(step);
    this.text += step.pieces.join("");
    const isAtEnd = this._isAtEnd();
    let box = this._box(step, true);
    step.pieces.forEach((piece, index) => {
      const lines = piece.split("\n");
      lines.forEach((line, place) => {
        if (place > 0) {
          this.element.append(document.createElement("br"));
          box = this._box(step, false);
        }
        const isBroken = place < lines.length - 1;
        if (place === 0 || line) box.append(tokenSpan(step, index, line, { isFirst: place === 0, isBroken }));
      });
    });
    if (isAtEnd) this.element.scrollTop = this.element.scrollHeight;
  }

  // Show text that was held back until the answer's end; its tokens are drawn already.
  addTail(text) {
    if (!text) return;
    this.text += text;
    const tail = document.createElement("span");
    tail.className = "tail";
    tail.textContent = text;
    this.element.append(tail);
  }

  _isAtEnd() {
    const { scrollTop, clientHeight, scrollHeight } = this.element;
    return scrollHeight - scrollTop - clientHeight < 40;
  }

  _box(step, isFirst) {
    const box = document.createElement("span");
    box.className = isFirst ? "step" : "step rest";
    const tokens = document.createElement("span");
    tokens.className = "tokens";
    box.append(tokens, isFirst ? lengths(step) : document.createElement("span"));
    if (!isFirst) box.lastChild.className = "lengths";
    this.element.append(box);
    return tokens;
  }
}

function tokenSpan(step, index, text, { isFirst, isBroken }) {
  const sign = signOf(step, index);
  const span = document.createElement("span");
  // What follows a line's end inside of a token is no token of its own.
  span.className = `${isFirst ? "token" : "continued"} ${sign}${text || isBroken ? "" : " blank"}${isBroken ? " broken" : ""}`;
  span.textContent = text;
  span.title = `${SIGNS[sign]}, token ${step.token_ids[index]}`;
  return span;
}

// The step's lengths: drafted, verified, accepted; and the same as pips, in which shapes say what numbers do.
function lengths(step) {
  const drafted = step.drafted ?? step.verified;
  const label = document.createElement("span");
  label.className = "lengths";
  label.dataset.drafted = drafted;
  label.dataset.verified = step.verified;
  label.dataset.accepted = step.num_drafts;
  label.title = `${drafted} drafted, ${step.verified} verified, ${step.num_drafts} accepted`;
  label.textContent = drafted ? `${drafted}·${step.verified}·${step.num_drafts}` : "–";
  return label;
}

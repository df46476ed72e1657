// One step at a time: which is open, which are done, and which the page proposes until the operator opens one.

import { at } from './view.js';

const ORDER = ['identity', 'checks', 'keys', 'serve'];

let open = null;
let isByHand = false;

const opener = (step) => at(step).querySelector('.opener');
const link = (step) => document.querySelector(`[data-step=${step}]`);

/** Opens a step and closes the others. */
export function show(step) {
  open = step;
  for (const each of ORDER) {
    const isOpen = each === step;
    at(each).classList.toggle('open', isOpen);
    at(`${each}-body`).hidden = !isOpen;
    opener(each).setAttribute('aria-expanded', String(isOpen));
    if (isOpen) link(each).setAttribute('aria-current', 'step');
    else link(each).removeAttribute('aria-current');
  }
}

/** Opens a step for the operator, who goes on there. */
export function go(step) {
  isByHand = true;
  show(step);
  opener(step).focus();
}

/** Opens a step unless the operator has opened one. */
export function propose(step) {
  if (!isByHand && open !== step) show(step);
}

/** Marks the steps that are done. */
export function mark(done) {
  for (const step of ORDER) {
    const isDone = Boolean(done[step]);
    at(step).classList.toggle('done', isDone);
    link(step).classList.toggle('done', isDone);
  }
}

/** Hides steps, or shows them again. */
export function hide(steps, isHidden) {
  for (const step of steps) {
    at(step).hidden = isHidden;
    link(step).parentElement.hidden = isHidden;
  }
}

/** Sets the steps up: headings and links open them, and buttons lead from one to another. */
export function build() {
  for (const step of ORDER) {
    opener(step).addEventListener('click', () => {
      isByHand = true;
      show(step);
    });
    link(step).addEventListener('click', (event) => {
      event.preventDefault();
      go(step);
    });
  }
  for (const button of document.querySelectorAll('[data-go]')) {
    button.addEventListener('click', () => go(button.dataset.go));
  }
  show(ORDER[0]);
}

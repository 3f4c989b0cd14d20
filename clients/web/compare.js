// Before and after in one picture, with a line between them that follows the pointer and the arrow keys.

export class Compare {
  #root;
  #frame;
  #handle;
  #range;
  #before;
  #after;

  /** @param {HTMLElement} root see index.html: .frame with two canvases, .handle and a range input */
  constructor(root) {
    this.#root = root;
    this.#frame = root.querySelector(".frame");
    this.#handle = root.querySelector(".handle");
    this.#range = root.querySelector("input[type=range]");
    this.#before = root.querySelector(".before");
    this.#after = root.querySelector(".after");
    this.#range.addEventListener("input", () => this.#move(Number(this.#range.value)));
    this.#frame.addEventListener("pointerdown", (event) => this.#grab(event));
    this.#move(50);
  }

  get result() {
    return this.#after;
  }

  /** Draws a pair. `before` stays as small as it is: the browser scales it. */
  show(before, after, width, height) {
    draw(this.#before, before, before.width, before.height);
    draw(this.#after, after, width, height);
    this.#frame.style.setProperty("--ratio", width / height);
    this.#frame.style.setProperty("--pixels", `${width / devicePixelRatio}px`);
  }

  /** Whether one pixel of the result is one pixel of the screen. */
  set actual(value) {
    this.#root.classList.toggle("actual", value);
    this.#root.scrollLeft = (this.#root.scrollWidth - this.#root.clientWidth) / 2;
    this.#root.scrollTop = (this.#root.scrollHeight - this.#root.clientHeight) / 2;
  }

  get actual() {
    return this.#root.classList.contains("actual");
  }

  #grab(event) {
    if (event.button || (this.actual && !this.#handle.contains(event.target))) return; // the rest scrolls
    event.preventDefault();
    this.#frame.setPointerCapture(event.pointerId);
    const follow = ({ clientX }) => {
      const { left, width } = this.#frame.getBoundingClientRect();
      this.#move(Math.round(Math.min(1, Math.max(0, (clientX - left) / width)) * 100));
    };
    follow(event);
    this.#frame.addEventListener("pointermove", follow);
    const letGo = () => this.#frame.removeEventListener("pointermove", follow);
    for (const end of ["pointerup", "pointercancel"]) this.#frame.addEventListener(end, letGo, { once: true });
  }

  #move(percent) {
    this.#range.value = percent;
    this.#range.setAttribute("aria-valuetext", `${percent} % before, ${100 - percent} % after`);
    this.#frame.style.setProperty("--split", `${percent}%`);
  }
}

function draw(canvas, picture, width, height) {
  if (canvas.width !== width || canvas.height !== height) [canvas.width, canvas.height] = [width, height];
  canvas.getContext("2d").drawImage(picture, 0, 0, width, height);
}

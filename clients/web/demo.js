// The live page: a picture, a clip, the camera or the screen, before and after.

import { Compare } from "./compare.js";
import { byId, list, say } from "./dom.js";
import { liveRows, pictureRows } from "./figures.js";
import { Live } from "./live.js";
import { upscale } from "./picture.js";
import { openCamera, openClip, openScreen } from "./sources.js";
import { ServiceError, wordsOf } from "./service.js";

const METER_MS = 500;
const REASONS = {
  overload: "the engine could not keep up",
  recovered: "there is room again",
  engine_unavailable: "the engine is away",
  engine_back: "the engine is back",
};

export class Demo {
  #compare = new Compare(byId("compare"));
  #notices;
  #live = null;
  #source = null;
  #file = null; // the picture that was chosen
  #shown = null; // the picture that is shown, with the link to its result
  #turn = 0; // counts what was chosen: answers to what was chosen before are forgotten

  /** @param {{tell(words), fail(error)}} notices where words and errors are shown */
  constructor(notices) {
    this.#notices = notices;
    byId("choose").addEventListener("click", () => byId("file").click());
    byId("file").addEventListener("change", ({ target }) => target.files[0] && this.#open(target.files[0]).then(() => (target.value = "")));
    byId("camera").addEventListener("click", () => this.#play(openCamera));
    byId("screen").addEventListener("click", () => this.#play(openScreen));
    byId("stop").addEventListener("click", () => {
      this.#turn += 1; // what is under way is not wanted any more
      this.#stop("");
    });
    byId("pause").addEventListener("click", () => this.#pause());
    byId("actual").addEventListener("click", ({ target }) => this.#actual(target));
    byId("full").addEventListener("click", () => byId("compare").requestFullscreen());
    byId("full").hidden = !document.fullscreenEnabled;
    byId("settings").addEventListener("change", () => this.resume()); // after `offer` has put scale and model in accord
    this.#takeDrops();
    setInterval(() => this.#live && list(byId("meter").querySelector("dl"), liveRows(this.#live)), METER_MS);
  }

  /** Goes on with what is chosen now: after a change, or once there is a key. */
  resume() {
    this.#live?.change(this.#wanted());
    if (this.#file) this.#upscale();
  }

  #wanted() {
    const number = (id) => Number(byId(id).value);
    return { model: byId("model").value, scale: number("scale"), lines: number("lines"), codec: byId("codec").value };
  }

  #open(file) {
    return file.type.startsWith("video/") ? this.#play(() => openClip(file)) : this.#picture(file);
  }

  /** What is shown goes on until there is something else to show. */
  async #play(open) {
    const turn = ++this.#turn;
    let source;
    try {
      source = await open();
    } catch (error) {
      return this.#notices.fail(error);
    }
    if (turn !== this.#turn) return source.close();
    this.#end();
    this.#source = source;
    source.onended = () => this.#stop(`${source.name} has ended.`);
    this.#notices.tell(`${source.name}: connecting.`);
    this.#live = new Live(source, this.#wanted(), this.#listeners(source));
    this.#show({ live: true });
  }

  #listeners({ name }) {
    return {
      show: (small, large) => this.#draw(small, large, large.displayWidth ?? large.width, large.displayHeight ?? large.height),
      state: (state, error) => {
        if (state === "running") this.#notices.tell(`${name}: running.`);
        else if (state === "waiting") this.#notices.tell(`${wordsOf(error)} Trying again.`);
        else if (state === "over") this.#notices.fail(error);
      },
      switched: (model, reason) => this.#notices.tell(`${name}: now upscaled by ${model}: ${REASONS[reason] ?? reason}.`),
      note: (words) => this.#notices.tell(words),
    };
  }

  #picture(file) {
    this.#file = file;
    return this.#upscale();
  }

  async #upscale() {
    const turn = ++this.#turn;
    const file = this.#file;
    this.#notices.tell(`${file.name}: being upscaled.`);
    let result;
    try {
      result = await upscale(file, this.#wanted());
    } catch (error) {
      if (turn === this.#turn) this.#refused(error);
      return;
    }
    if (turn === this.#turn) this.#present(file, result);
    for (const picture of [result.before, result.after]) picture.close();
  }

  #refused(error) {
    if (this.#live || this.#shown) this.#file = this.#shown?.file ?? null; // else it is tried again, such as with a key
    this.#notices.fail(error);
  }

  #present(file, result) {
    this.#end();
    this.#file = file;
    this.#shown = { file, link: URL.createObjectURL(result.blob) };
    this.#draw(result.before, result.after, result.after.width, result.after.height);
    const name = file.name.replace(/\.[^.]*$/, "");
    Object.assign(byId("save"), { href: this.#shown.link, download: `${name}-x${byId("scale").value}.png` });
    this.#show({ live: false });
    list(byId("meter").querySelector("dl"), pictureRows(result));
    this.#notices.tell(`${file.name}: upscaled by ${result.about.model}.`);
  }

  #draw(before, after, width, height) {
    this.#compare.show(before, after, width, height);
    const how = `Before: ${before.width} × ${before.height}, scaled by the browser. After: ${width} × ${height}.`;
    say(byId("caption"), how);
    byId("drop").hidden = true;
    for (const id of ["compare", "caption"]) byId(id).hidden = false;
  }

  /** Ends what is shown. */
  #end() {
    this.#live?.close();
    if (this.#shown) URL.revokeObjectURL(this.#shown.link);
    this.#live = this.#source = this.#file = this.#shown = null;
  }

  #stop(words) {
    this.#end();
    for (const id of ["compare", "caption", "view-tools", "meter"]) byId(id).hidden = true;
    byId("drop").hidden = false;
    byId("choose").focus();
    this.#notices.tell(words);
  }

  #pause() {
    this.#source.toggle();
    byId("pause").setAttribute("aria-pressed", String(this.#source.paused));
    this.#notices.tell(`${this.#source.name}: ${this.#source.paused ? "paused" : "running"}.`);
  }

  #actual(button) {
    this.#compare.actual = !this.#compare.actual;
    button.setAttribute("aria-pressed", String(this.#compare.actual));
  }

  #show({ live }) {
    byId("pause").setAttribute("aria-pressed", "false");
    for (const id of ["view-tools", "meter"]) byId(id).hidden = false;
    byId("pause").hidden = !live;
    say(byId("stop"), live ? "Stop" : "Close");
    byId("save").hidden = live;
  }

  #takeDrops() {
    const page = document.querySelector(".viewer");
    const over = (value) => page.classList.toggle("over", value);
    document.addEventListener("dragover", (event) => event.preventDefault() || over(true));
    document.addEventListener("dragleave", (event) => event.relatedTarget || over(false));
    document.addEventListener("drop", (event) => {
      event.preventDefault();
      over(false);
      const [file] = event.dataTransfer.files;
      if (file) this.#open(file);
      else this.#notices.fail(new ServiceError("unsupported_type", "drop a picture or a clip from your disk."));
    });
  }
}

// The page: which part is shown, what is said, and the key.

import { Demo } from "./demo.js";
import { byId, say } from "./dom.js";
import { loadModels, offer } from "./models.js";
import { Relays } from "./relays.js";
import { keyStore, wordsOf } from "./service.js";

const RETRY_MS = 3000;

const notices = {
  tell(words) {
    say(byId("alert"), "");
    say(byId("status"), words);
  },
  fail(error) {
    say(byId("status"), "");
    say(byId("alert"), wordsOf(error));
    if (error.code !== "unauthorized") return;
    byId("docs-link").hidden = true; // it would be refused too
    openKeyDialog();
  },
};

const demo = new Demo(notices);
const relays = new Relays(notices.fail);

function route() {
  const page = location.hash.startsWith("#/relays") ? "relays" : "live";
  for (const name of ["live", "relays"]) byId(name).hidden = name !== page;
  for (const link of document.querySelectorAll("nav a[data-page]")) {
    if (link.dataset.page === page) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.title = page === "relays" ? "Relays · Fourfold" : "Fourfold";
  relays.shown = page === "relays";
}

/** Asks what models there are; also the test whether the service is there and lets this page in. */
async function load() {
  try {
    const models = await loadModels();
    offer(models, byId("model"), byId("scale"));
    const form = byId("relay-form").elements;
    offer(models, form.model, form.scale);
    say(byId("alert"), "");
    byId("docs-link").hidden = Boolean(keyStore.get()); // a link cannot carry the key
    return true;
  } catch (error) {
    notices.fail(error);
    if (error.code === "away") setTimeout(load, RETRY_MS);
    return false;
  }
}

function openKeyDialog() {
  byId("key-forget").hidden = !keyStore.get();
  if (!byId("key-dialog").open) byId("key-dialog").showModal();
}

async function useKey(event) {
  event.preventDefault();
  try {
    keyStore.set(byId("key").value.trim());
    await loadModels();
  } catch (error) {
    keyStore.forget();
    say(byId("key-error"), wordsOf(error));
    return;
  }
  byId("key").value = "";
  say(byId("key-error"), "");
  byId("key-dialog").close();
  await load();
  demo.resume();
  relays.resume();
}

function forgetKey() {
  keyStore.forget();
  location.reload();
}

byId("key-open").addEventListener("click", openKeyDialog);
byId("key-cancel").addEventListener("click", () => byId("key-dialog").close());
byId("key-forget").addEventListener("click", forgetKey);
byId("key-dialog").querySelector("form").addEventListener("submit", useKey);
addEventListener("hashchange", route);
route();
load();

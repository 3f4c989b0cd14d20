// One picture through POST /v1/images. Knows nothing of the page.

import { call } from "./service.js";

/** The small picture and its result, both to be closed, and the figures. Throws: ServiceError, or Error where this browser cannot show the file. */
export async function upscale(file, { model, scale }) {
  const before = await createImageBitmap(file).catch(() => {
    throw new Error(`${file.name}: this browser cannot show it. Try PNG, JPEG or WebP.`);
  });
  try {
    return { before, ...(await resultOf(file, model, scale)) };
  } catch (error) {
    before.close();
    throw error;
  }
}

async function resultOf(file, model, scale) {
  const started = performance.now();
  const headers = { "Content-Type": file.type || "application/octet-stream", Accept: "image/png" };
  const answer = await call(`v1/images?${new URLSearchParams({ model, scale })}`, { method: "POST", body: file, headers });
  const blob = await answer.blob();
  const about = (name) => answer.headers.get(`X-Fourfold-${name}`);
  return {
    after: await createImageBitmap(blob),
    blob,
    tripMs: performance.now() - started,
    serviceMs: Number(about("Server-Ms")),
    about: { model: about("Model"), engine: about("Engine"), precision: about("Precision") },
  };
}

// Where moving pictures come from: a clip, the camera, the screen. Each is a <video> that plays, and says when it has a new picture.

const CAMERA = { video: { width: { ideal: 480 }, height: { ideal: 270 }, frameRate: { ideal: 60, max: 60 } }, audio: false };
const SCREEN = { video: { frameRate: { ideal: 30, max: 60 } }, audio: false };

/** A file that this browser plays. Throws: Error: it does not. */
export async function openClip(file) {
  const address = URL.createObjectURL(file);
  const video = newVideo();
  video.loop = true;
  video.src = address;
  try {
    await video.play();
  } catch {
    URL.revokeObjectURL(address);
    throw new Error(`${file.name}: this browser cannot play it. Try MP4 with H.264, or WebM.`);
  }
  return new Source(video, file.name, () => URL.revokeObjectURL(address));
}

export async function openCamera() {
  return openStream("getUserMedia", CAMERA, "Camera");
}

export async function openScreen() {
  return openStream("getDisplayMedia", SCREEN, "Screen");
}

async function openStream(how, wanted, name) {
  if (!navigator.mediaDevices?.[how]) throw new Error(unavailable(name));
  let stream;
  try {
    stream = await navigator.mediaDevices[how](wanted);
  } catch (error) {
    throw new Error(refusal(name, error));
  }
  const video = newVideo();
  video.srcObject = stream;
  await video.play();
  const source = new Source(video, name, () => stream.getTracks().forEach((track) => track.stop()));
  stream.getVideoTracks()[0].onended = () => source.onended?.();
  return source;
}

function unavailable(name) {
  const why = isSecureContext ? "this browser does not offer it." : "browsers offer it only over https, or on the same machine.";
  return `${name}: ${why}`;
}

function refusal(name, error) {
  if (error.name === "NotAllowedError") return `${name}: the browser was not allowed to use it.`;
  if (error.name === "NotFoundError") return `${name}: there is none.`;
  return `${name}: it cannot be opened (${error.message}).`;
}

function newVideo() {
  const video = document.createElement("video");
  video.muted = true;
  video.playsInline = true;
  return video;
}

class Source {
  #release;
  #stopped = false;
  onended = null;

  constructor(video, name, release) {
    this.video = video;
    this.name = name;
    this.#release = release;
  }

  get paused() {
    return this.video.paused;
  }

  toggle() {
    return this.paused ? this.video.play() : this.video.pause();
  }

  /** Calls `told` at each new picture, until the source is closed. */
  eachPicture(told) {
    const next = () => {
      if (this.#stopped) return;
      told();
      ask();
    };
    const ask = () => this.video.requestVideoFrameCallback(next);
    ask();
  }

  close() {
    this.#stopped = true;
    this.video.pause();
    this.#release();
  }
}

// Photographs: chosen, dropped or pasted, made fit for the API.

/** What the API takes as it is. Anything else that this browser can show is drawn anew. */
const TYPES = new Set(["image/jpeg", "image/png", "image/gif", "image/webp", "image/bmp"]);
/** Larger files are drawn anew: the model sees a small square anyhow, and the way there may be slow. */
const LARGE_BYTES = 6 << 20;
/** So are pictures with more pixels, which servers refuse. */
const LARGE_PIXELS = 24e6;
const LONGEST_SIDE = 2048;

/** `{name, url}` with a `data:` URL. Throws an error that says what is wrong with the file. */
export async function readPhoto(file) {
  const picture = await createImageBitmap(file).catch(() => {
    throw new Error(`${file.name || "This"} is no picture that can be read. Choose a JPEG, PNG, GIF, WebP or BMP file.`);
  });
  const name = file.name || "pasted.png";
  const fit = TYPES.has(file.type) && file.size <= LARGE_BYTES && picture.width * picture.height <= LARGE_PIXELS;
  const blob = fit ? file : await redraw(picture);
  picture.close();
  return { name: fit ? name : name.replace(/(\.\w+)?$/, ".jpg"), url: await dataUrl(blob) };
}

async function redraw(picture) {
  const scale = Math.min(1, LONGEST_SIDE / Math.max(picture.width, picture.height));
  const canvas = new OffscreenCanvas(Math.max(1, Math.round(picture.width * scale)), Math.max(1, Math.round(picture.height * scale)));
  canvas.getContext("2d").drawImage(picture, 0, 0, canvas.width, canvas.height);
  return canvas.convertToBlob({ type: "image/jpeg", quality: 0.9 });
}

function dataUrl(blob) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(blob);
  });
}

/** The first picture among what was dropped or pasted. */
export function pictureIn(transfer) {
  return [...(transfer?.files ?? [])].find((file) => file.type.startsWith("image/")) ?? transfer?.files?.[0];
}

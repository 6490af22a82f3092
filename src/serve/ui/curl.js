// The page's request as a command to copy.

const quote = (text) => `'${text.replaceAll("'", `'\\''`)}'`;

/** `request` is the body; the photograph is read from the file of this name, because a command with it inside is too long for a shell. */
export function curl(origin, request, file, withKey) {
  const body = structuredClone(request);
  const image = body.messages[0].content.find((part) => part.type === "image_url");
  const [head] = image.image_url.url.split(",", 1);
  image.image_url.url = `${head},%s`;
  // printf takes a percent sign twice and a backslash twice.
  const format = JSON.stringify(body).replaceAll("\\", "\\\\").replace(/%(?!s"\})/g, "%%");
  const key = withKey ? ` \\\n    -H "authorization: Bearer $CANDOR_API_KEY"` : "";
  return `printf ${quote(format)} "$(base64 -w0 ${quote(file)})" |
  curl -sN ${origin}/v1/chat/completions -H 'content-type: application/json'${key} -d @-`;
}

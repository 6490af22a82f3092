-- The same text for SQLite and PostgreSQL. What is looked for has a column; the rest is JSON. Ids begin alike and go on in hexadecimal digits, so that
-- they sort alike under every collation.
CREATE TABLE receipts (
    id TEXT PRIMARY KEY,
    created BIGINT NOT NULL,
    image TEXT NOT NULL,
    user_name TEXT,
    body TEXT NOT NULL
);
CREATE INDEX receipts_created ON receipts (created, id);
CREATE INDEX receipts_image ON receipts (image);
CREATE INDEX receipts_user ON receipts (user_name) WHERE user_name IS NOT NULL;

CREATE TABLE feedback (
    id TEXT PRIMARY KEY,
    created BIGINT NOT NULL,
    completion_id TEXT,
    image TEXT NOT NULL,
    user_name TEXT,
    annotator TEXT,
    kind TEXT NOT NULL,
    source TEXT NOT NULL,
    idempotency_key TEXT UNIQUE,
    idempotency_digest TEXT,
    body TEXT NOT NULL
);
CREATE INDEX feedback_image ON feedback (image);
CREATE INDEX feedback_completion ON feedback (completion_id) WHERE completion_id IS NOT NULL;
CREATE INDEX feedback_user ON feedback (user_name) WHERE user_name IS NOT NULL;
CREATE INDEX feedback_annotator ON feedback (annotator) WHERE annotator IS NOT NULL;

-- Images that lost a reference and may have no other: to be looked at, and removed, outside of the transaction.
CREATE TABLE doomed_images (
    image TEXT PRIMARY KEY
);

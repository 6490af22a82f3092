-- The same answer to the same question about the same photograph, however many completions gave it, is one item: the head. The others wait behind it
-- (wanted = -2), and one of them takes its place when its receipt goes. Rows of earlier versions have no digest, and are each an item of their own.
ALTER TABLE queue ADD COLUMN digest TEXT;
CREATE UNIQUE INDEX queue_heads ON queue (digest) WHERE wanted > -2;
CREATE INDEX queue_repeats ON queue (digest) WHERE wanted = -2;

-- Who has judged an answer is known from what they said, also when its receipt is gone.
ALTER TABLE feedback ADD COLUMN digest TEXT;
CREATE INDEX feedback_digest ON feedback (digest, annotator) WHERE annotator IS NOT NULL;

-- An annotator's own records, page by page.
DROP INDEX feedback_annotator;
CREATE INDEX feedback_by_annotator ON feedback (annotator, id) WHERE annotator IS NOT NULL;

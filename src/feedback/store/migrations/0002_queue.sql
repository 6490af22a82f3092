-- An answer goes with its receipt, and leases with the answer. The order is fixed when a receipt is written, so that the next answer is looked up in an
-- index; those drawn by chance (unassisted) are a queue of their own.
CREATE TABLE queue (
    completion_id TEXT NOT NULL REFERENCES receipts (id) ON DELETE CASCADE,
    choice BIGINT NOT NULL,
    unassisted BIGINT NOT NULL,
    overlap BIGINT NOT NULL,
    rank DOUBLE PRECISION NOT NULL,
    -- Judgements that are still wanted; -1 when too many have skipped it.
    wanted BIGINT NOT NULL,
    skips BIGINT NOT NULL DEFAULT 0,
    PRIMARY KEY (completion_id, choice)
);
CREATE INDEX queue_open ON queue (unassisted, rank DESC) WHERE wanted > 0;
CREATE INDEX queue_closed ON queue (wanted) WHERE wanted <= 0;

CREATE TABLE leases (
    completion_id TEXT NOT NULL,
    choice BIGINT NOT NULL,
    annotator TEXT NOT NULL,
    state TEXT NOT NULL,
    expires BIGINT NOT NULL,
    PRIMARY KEY (completion_id, choice, annotator),
    FOREIGN KEY (completion_id, choice) REFERENCES queue (completion_id, choice) ON DELETE CASCADE
);
CREATE INDEX leases_running ON leases (expires) WHERE state = 'leased';
CREATE INDEX leases_annotator ON leases (annotator, expires) WHERE state = 'leased';

-- Whoever hands out answers changes this row first, and so takes turns with others.
CREATE TABLE queue_turn (turn BIGINT NOT NULL);
INSERT INTO queue_turn (turn) VALUES (0);

-- What records of queued answers are samples of.
ALTER TABLE feedback ADD COLUMN overlapping BIGINT NOT NULL DEFAULT 0;
ALTER TABLE feedback ADD COLUMN unassisted BIGINT NOT NULL DEFAULT 0;
CREATE INDEX feedback_overlapping ON feedback (id) WHERE overlapping = 1;
CREATE INDEX feedback_unassisted ON feedback (id) WHERE unassisted = 1;

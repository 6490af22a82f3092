-- Whose a row is: the owner of the key that it was made with, '' without keys and for rows of earlier versions.
ALTER TABLE receipts ADD COLUMN owner TEXT NOT NULL DEFAULT '';
ALTER TABLE feedback ADD COLUMN owner TEXT NOT NULL DEFAULT '';
ALTER TABLE queue ADD COLUMN owner TEXT NOT NULL DEFAULT '';
-- An annotator is a name within the owner of the key that they work with, which need not be the owner of what they judge.
ALTER TABLE feedback ADD COLUMN annotator_owner TEXT NOT NULL DEFAULT '';

-- What a receipt takes: its body, and its image, which receipts share. Images of earlier rows count nothing.
ALTER TABLE receipts ADD COLUMN bytes BIGINT NOT NULL DEFAULT 0;
ALTER TABLE receipts ADD COLUMN image_bytes BIGINT NOT NULL DEFAULT 0;

CREATE INDEX receipts_owner ON receipts (owner, created, id);
CREATE INDEX receipts_sizes ON receipts (owner, image, image_bytes, bytes);
CREATE INDEX feedback_owner ON feedback (owner, id);
CREATE INDEX queue_open_owner ON queue (owner, unassisted, rank DESC) WHERE wanted > 0;
CREATE INDEX queue_closed_owner ON queue (owner, wanted) WHERE wanted <= 0;

-- How much somebody has done today is told by dates: ids of the same process grow also while its clock is set back.
DROP INDEX feedback_by_annotator;
CREATE INDEX feedback_by_annotator ON feedback (annotator, id, created, annotator_owner) WHERE annotator IS NOT NULL;

-- Two annotators of one name and different owners can have the same answer. SQLite changes no primary key in place.
CREATE TABLE leases_by_owner (
    completion_id TEXT NOT NULL,
    choice BIGINT NOT NULL,
    annotator_owner TEXT NOT NULL,
    annotator TEXT NOT NULL,
    state TEXT NOT NULL,
    expires BIGINT NOT NULL,
    PRIMARY KEY (completion_id, choice, annotator_owner, annotator),
    FOREIGN KEY (completion_id, choice) REFERENCES queue (completion_id, choice) ON DELETE CASCADE
);
INSERT INTO leases_by_owner (completion_id, choice, annotator_owner, annotator, state, expires)
    SELECT completion_id, choice, '', annotator, state, expires FROM leases;
DROP TABLE leases;
ALTER TABLE leases_by_owner RENAME TO leases;
CREATE INDEX leases_running ON leases (expires) WHERE state = 'leased';
CREATE INDEX leases_annotator ON leases (annotator, annotator_owner, expires);

UPDATE receipts SET bytes = length(body);

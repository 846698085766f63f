CREATE TABLE tracker.returned (
    reminder uuid        NOT NULL,
    what     text        NOT NULL,
    at       timestamptz NOT NULL,
    PRIMARY KEY (reminder, what),
    CHECK (what IN ('hard', 'soft', 'blocked', 'complained'))
);

COMMENT ON TABLE  tracker.returned IS 'What came back of reminders';
COMMENT ON COLUMN tracker.returned.reminder IS 'The reminder';
COMMENT ON COLUMN tracker.returned.what     IS 'hard, soft or blocked: a bounce of that kind; complained';
COMMENT ON COLUMN tracker.returned.at       IS 'When it came; business time';

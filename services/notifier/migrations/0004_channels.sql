CREATE TABLE notifier.move (
    delivery     uuid        NOT NULL,
    from_channel text        NOT NULL,
    to_channel   text        NOT NULL,
    reason       text        NOT NULL,
    status_code  text        NOT NULL,
    moved_at     timestamptz NOT NULL,
    PRIMARY KEY (delivery, from_channel)
);

COMMENT ON TABLE  notifier.move IS 'Deliveries that went on by another channel, since the one before could not reach the payer. Never after anything may have been accepted';
COMMENT ON COLUMN notifier.move.delivery     IS 'The reminder';
COMMENT ON COLUMN notifier.move.from_channel IS 'The channel that could not: each is tried once';
COMMENT ON COLUMN notifier.move.to_channel   IS 'The next one';
COMMENT ON COLUMN notifier.move.reason       IS 'Why, as the delivery would have ended';
COMMENT ON COLUMN notifier.move.status_code  IS 'Of the last answer, if there was one';
COMMENT ON COLUMN notifier.move.moved_at     IS 'Business time';

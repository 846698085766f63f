CREATE TABLE notifier.sending (
    domain     text        NOT NULL,
    hour       timestamptz NOT NULL,
    sent       bigint      NOT NULL,
    bounced    bigint      NOT NULL,
    complained bigint      NOT NULL,
    PRIMARY KEY (domain, hour)
);

COMMENT ON TABLE  notifier.sending IS 'What became of the mail of each sending domain, by the hour: the circuit breaker counts seven days of it';
COMMENT ON COLUMN notifier.sending.domain     IS 'Of the From address, lower-case';
COMMENT ON COLUMN notifier.sending.hour       IS 'Business time, its beginning';
COMMENT ON COLUMN notifier.sending.sent       IS 'Handed over, or refused because there is no such address';
COMMENT ON COLUMN notifier.sending.bounced    IS 'No such address, at once or by a bounce that came later';
COMMENT ON COLUMN notifier.sending.complained IS 'Reported as unwanted';

CREATE TABLE notifier.breaker (
    domain    text        PRIMARY KEY,
    reason    text        NOT NULL,
    opened_at timestamptz NOT NULL,
    closed_at timestamptz,
    closed_by text        NOT NULL DEFAULT ''
);

COMMENT ON TABLE  notifier.breaker IS 'Sending domains whose mail bounces or is complained about too often: nothing is sent until somebody closes it';
COMMENT ON COLUMN notifier.breaker.domain    IS 'Of the From address, lower-case';
COMMENT ON COLUMN notifier.breaker.reason    IS 'What was counted when it opened';
COMMENT ON COLUMN notifier.breaker.opened_at IS 'Business time';
COMMENT ON COLUMN notifier.breaker.closed_at IS 'Business time; what was counted before it does not count any more';
COMMENT ON COLUMN notifier.breaker.closed_by IS 'Who said that it may go on';

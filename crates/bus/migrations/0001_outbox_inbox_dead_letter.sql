-- Run once per service, with search_path set to the service's schema.

CREATE TABLE outbox (
    created_at  timestamptz NOT NULL DEFAULT now(),
    msg_id      uuid        NOT NULL,
    shard       smallint    NOT NULL,
    subject     text        NOT NULL,
    key         text        NOT NULL,
    occurred_at timestamptz NOT NULL,
    traceparent text,
    payload     bytea       NOT NULL,
    PRIMARY KEY (created_at, msg_id)
) PARTITION BY RANGE (created_at);

COMMENT ON TABLE  outbox IS 'Every event this service emitted in the last 14 days: written with the state it tells of, never updated. Source of replays.';
COMMENT ON COLUMN outbox.created_at  IS 'Machine time of the writing transaction; partition key';
COMMENT ON COLUMN outbox.msg_id      IS 'Event id: ce-id and Nats-Msg-Id';
COMMENT ON COLUMN outbox.shard       IS 'Logical shard of the customer, 0 to 63';
COMMENT ON COLUMN outbox.subject     IS 'NATS subject: dunlin.v1.<event>.<merchant>';
COMMENT ON COLUMN outbox.key         IS 'Invoice or customer the event is about: ce-subject without the merchant';
COMMENT ON COLUMN outbox.occurred_at IS 'Business time: ce-time';
COMMENT ON COLUMN outbox.traceparent IS 'Trace that created the event: ce-traceparent';
COMMENT ON COLUMN outbox.payload     IS 'Protobuf, forwarded as it is';

-- Catches rows if the maintenance job has not made the day's partition; normally empty.
CREATE TABLE outbox_default PARTITION OF outbox DEFAULT;

CREATE TABLE outbox_pending (
    created_at timestamptz NOT NULL,
    msg_id     uuid        NOT NULL,
    PRIMARY KEY (created_at, msg_id)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0);

COMMENT ON TABLE  outbox_pending IS 'Outbox rows that JetStream has not confirmed yet. Insert and delete only.';
COMMENT ON COLUMN outbox_pending.created_at IS 'Of the outbox row';
COMMENT ON COLUMN outbox_pending.msg_id     IS 'Of the outbox row';

CREATE TABLE inbox (
    consumer    text        NOT NULL,
    msg_id      uuid        NOT NULL,
    received_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (msg_id, consumer)
) PARTITION BY HASH (msg_id);

COMMENT ON TABLE  inbox IS 'Events this service has dealt with in the last 30 days, longer than any copy can still arrive. Not partitioned by time: the same id on two days must collide.';
COMMENT ON COLUMN inbox.consumer    IS 'Flow that dealt with it';
COMMENT ON COLUMN inbox.msg_id      IS 'Event id';
COMMENT ON COLUMN inbox.received_at IS 'Machine time';

CREATE TABLE inbox_0 PARTITION OF inbox FOR VALUES WITH (MODULUS 4, REMAINDER 0);
CREATE TABLE inbox_1 PARTITION OF inbox FOR VALUES WITH (MODULUS 4, REMAINDER 1);
CREATE TABLE inbox_2 PARTITION OF inbox FOR VALUES WITH (MODULUS 4, REMAINDER 2);
CREATE TABLE inbox_3 PARTITION OF inbox FOR VALUES WITH (MODULUS 4, REMAINDER 3);
CREATE INDEX inbox_received_at ON inbox USING brin (received_at);

CREATE TABLE dead_letter (
    id                  bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    consumer            text        NOT NULL,
    msg_id              uuid        NOT NULL,
    subject             text        NOT NULL,
    headers             jsonb       NOT NULL,
    payload             bytea       NOT NULL,
    reason              text        NOT NULL,
    attempts            integer     NOT NULL DEFAULT 1,
    failed_at           timestamptz NOT NULL DEFAULT now(),
    replay_requested_at timestamptz,
    UNIQUE (consumer, msg_id)
);

COMMENT ON TABLE  dead_letter IS 'Events that could not be dealt with and never will be without a change: kept whole, for an operator to inspect, replay or drop.';
COMMENT ON COLUMN dead_letter.id                  IS 'What operators call it';
COMMENT ON COLUMN dead_letter.consumer            IS 'Flow that gave up';
COMMENT ON COLUMN dead_letter.msg_id              IS 'Event id, or one derived from the stream position if the message had none';
COMMENT ON COLUMN dead_letter.subject             IS 'Subject it arrived on';
COMMENT ON COLUMN dead_letter.headers             IS 'Headers as they arrived, name to value';
COMMENT ON COLUMN dead_letter.payload             IS 'Bytes as they arrived';
COMMENT ON COLUMN dead_letter.reason              IS 'Why it cannot work';
COMMENT ON COLUMN dead_letter.attempts            IS 'How often it was tried, replays included';
COMMENT ON COLUMN dead_letter.failed_at           IS 'Machine time of the last attempt';
COMMENT ON COLUMN dead_letter.replay_requested_at IS 'An operator asked to try again; the flow that gave up does so and deletes the row if it works';

-- Makes the partitions of the next days and drops those past retention. Runs as the tables' owner, so that the service's
-- role needs no right to create or drop anything.
CREATE FUNCTION maintain_outbox(keep interval) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT SET lock_timeout = '2s' AS $$
DECLARE
    today date := (now() AT TIME ZONE 'UTC')::date;
    day   date;
    old   record;
BEGIN
    -- One replica at a time; the others have nothing to add.
    IF NOT pg_try_advisory_xact_lock(hashtext(current_schema() || '.maintain_outbox')) THEN
        RETURN;
    END IF;
    FOR day IN SELECT generate_series(today, today + 3, '1 day')::date LOOP
        IF to_regclass(format('outbox_%s', to_char(day, 'YYYYMMDD'))) IS NULL
           AND NOT EXISTS (SELECT FROM outbox_default
                           WHERE created_at >= day::timestamp AT TIME ZONE 'UTC'
                             AND created_at < (day + 1)::timestamp AT TIME ZONE 'UTC') THEN
            EXECUTE format('CREATE TABLE outbox_%s PARTITION OF outbox FOR VALUES FROM (%L) TO (%L)',
                           to_char(day, 'YYYYMMDD'), day::timestamp AT TIME ZONE 'UTC', (day + 1)::timestamp AT TIME ZONE 'UTC');
        END IF;
    END LOOP;
    FOR old IN
        SELECT c.relname, to_date(right(c.relname, 8), 'YYYYMMDD') AS day
        FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
        WHERE i.inhparent = 'outbox'::regclass AND c.relname ~ '^outbox_\d{8}$'
    LOOP
        -- Rows that were never confirmed stay, however old they are.
        IF (old.day + 1)::timestamp AT TIME ZONE 'UTC' < now() - keep
           AND NOT EXISTS (SELECT FROM outbox_pending
                           WHERE created_at >= old.day::timestamp AT TIME ZONE 'UTC'
                             AND created_at < (old.day + 1)::timestamp AT TIME ZONE 'UTC') THEN
            EXECUTE format('DROP TABLE %I', old.relname);
        END IF;
    END LOOP;
    DELETE FROM outbox_default o
    WHERE o.created_at < now() - keep
      AND NOT EXISTS (SELECT FROM outbox_pending p WHERE (p.created_at, p.msg_id) = (o.created_at, o.msg_id));
END
$$;

SELECT maintain_outbox('14 days');

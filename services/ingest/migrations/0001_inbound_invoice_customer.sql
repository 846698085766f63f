CREATE TABLE ingest.inbound (
    id          uuid        PRIMARY KEY,
    merchant    text        NOT NULL,
    source      text        NOT NULL,
    external_id text        NOT NULL,
    kind        text        NOT NULL,
    about       text,
    body        bytea       NOT NULL,
    correction  bytea,
    occurred_at timestamptz,
    traceparent text,
    received_at timestamptz NOT NULL,
    stored_at   timestamptz NOT NULL DEFAULT now()
);

COMMENT ON TABLE  ingest.inbound IS 'Every message as it arrived, once: the primary key is derived from merchant, source and external id';
COMMENT ON COLUMN ingest.inbound.id          IS 'UUIDv5 of source, merchant and external id';
COMMENT ON COLUMN ingest.inbound.merchant    IS 'Whose';
COMMENT ON COLUMN ingest.inbound.source      IS 'stripe, grpc, file, or the ce-source of a CloudEvent';
COMMENT ON COLUMN ingest.inbound.external_id IS 'The sender''s id of the message';
COMMENT ON COLUMN ingest.inbound.kind        IS 'The sender''s type, such as invoice.paid';
COMMENT ON COLUMN ingest.inbound.about       IS 'Invoice it is about, if it names one';
COMMENT ON COLUMN ingest.inbound.body        IS 'Bytes as they arrived';
COMMENT ON COLUMN ingest.inbound.correction  IS 'What an operator put in place of the body, if it made no sense as it arrived';
COMMENT ON COLUMN ingest.inbound.occurred_at IS 'The sender''s time of the message, if it came beside the body (ce-time in binary mode)';
COMMENT ON COLUMN ingest.inbound.traceparent IS 'Trace it arrived in';
COMMENT ON COLUMN ingest.inbound.received_at IS 'Business time of arrival';
COMMENT ON COLUMN ingest.inbound.stored_at   IS 'Machine time; retention goes by it';

CREATE INDEX inbound_about ON ingest.inbound (merchant, about) WHERE about IS NOT NULL;
CREATE INDEX inbound_stored_at ON ingest.inbound USING brin (stored_at);

CREATE TABLE ingest.quarantine (
    id                  bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    inbound             uuid        NOT NULL UNIQUE REFERENCES ingest.inbound,
    field               text        NOT NULL,
    reason              text        NOT NULL,
    quarantined_at      timestamptz NOT NULL DEFAULT now(),
    replay_requested_at timestamptz
);

COMMENT ON TABLE  ingest.quarantine IS 'Messages whose content makes no sense: kept for an operator to correct and replay, or to drop';
COMMENT ON COLUMN ingest.quarantine.id                  IS 'What operators call it';
COMMENT ON COLUMN ingest.quarantine.inbound             IS 'The message';
COMMENT ON COLUMN ingest.quarantine.field               IS 'The field at fault, in the sender''s words';
COMMENT ON COLUMN ingest.quarantine.reason              IS 'What is wrong with it, and what would be right';
COMMENT ON COLUMN ingest.quarantine.quarantined_at      IS 'Machine time';
COMMENT ON COLUMN ingest.quarantine.replay_requested_at IS 'An operator asked to try again';

CREATE TABLE ingest.invoice (
    merchant text   NOT NULL,
    invoice  text   NOT NULL,
    version  bigint NOT NULL,
    facts    jsonb  NOT NULL,
    PRIMARY KEY (merchant, invoice)
);

COMMENT ON TABLE  ingest.invoice IS 'What was ever said about each invoice; its state is a pure function of these facts, whatever order they came in';
COMMENT ON COLUMN ingest.invoice.merchant IS 'Whose';
COMMENT ON COLUMN ingest.invoice.invoice  IS 'The processor''s id';
COMMENT ON COLUMN ingest.invoice.version  IS 'Counts changes; the version of the snapshots in events';
COMMENT ON COLUMN ingest.invoice.facts    IS 'Set of facts (ingest::domain::Facts). Personal: names, addresses, pay links';

CREATE TABLE ingest.customer (
    merchant text   NOT NULL,
    customer text   NOT NULL,
    version  bigint NOT NULL,
    facts    jsonb  NOT NULL,
    PRIMARY KEY (merchant, customer)
);

COMMENT ON TABLE  ingest.customer IS 'The latest that was said about each customer';
COMMENT ON COLUMN ingest.customer.merchant IS 'Whose';
COMMENT ON COLUMN ingest.customer.customer IS 'The processor''s id';
COMMENT ON COLUMN ingest.customer.version  IS 'Counts changes; the version of the snapshots in events';
COMMENT ON COLUMN ingest.customer.facts    IS 'Latest fact (ingest::domain::CustomerFacts). Personal';

CREATE TABLE ingest.charge (
    merchant text NOT NULL,
    charge   text NOT NULL,
    invoice  text NOT NULL,
    PRIMARY KEY (merchant, charge)
);

COMMENT ON TABLE  ingest.charge IS 'Which invoice a charge or payment intent pays: disputes, refunds and news of money under way name only the charge';
COMMENT ON COLUMN ingest.charge.merchant IS 'Whose';
COMMENT ON COLUMN ingest.charge.charge   IS 'The processor''s id of the charge or payment intent';
COMMENT ON COLUMN ingest.charge.invoice  IS 'The invoice';

CREATE TABLE ingest.parked (
    merchant  text        NOT NULL,
    charge    text        NOT NULL,
    inbound   uuid        NOT NULL REFERENCES ingest.inbound,
    facts     jsonb       NOT NULL,
    parked_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (merchant, charge, inbound)
);

COMMENT ON TABLE  ingest.parked IS 'Facts about a charge whose invoice is not known yet; applied when it becomes known';
COMMENT ON COLUMN ingest.parked.merchant  IS 'Whose';
COMMENT ON COLUMN ingest.parked.charge    IS 'The charge or payment intent';
COMMENT ON COLUMN ingest.parked.inbound   IS 'The message it came in';
COMMENT ON COLUMN ingest.parked.facts     IS 'The facts (list of ingest::domain::Stamped)';
COMMENT ON COLUMN ingest.parked.parked_at IS 'Machine time; most sweeps look at recent ones only';

CREATE INDEX parked_inbound ON ingest.parked (inbound);
CREATE INDEX parked_parked_at ON ingest.parked (parked_at);

CREATE TABLE ingest.source (
    merchant text        NOT NULL,
    source   text        NOT NULL,
    heard_at timestamptz NOT NULL,
    PRIMARY KEY (merchant, source)
);

COMMENT ON TABLE  ingest.source IS 'When each source was heard, as the last source-heard tells: at most one a minute';
COMMENT ON COLUMN ingest.source.merchant IS 'Whose';
COMMENT ON COLUMN ingest.source.source   IS 'stripe, grpc, nats or file';
COMMENT ON COLUMN ingest.source.heard_at IS 'Business time of the last source-heard; the next is a minute later at the earliest';

CREATE TABLE notifier.inbound (
    id          uuid        PRIMARY KEY,
    class       text        NOT NULL,
    status      text        NOT NULL,
    feedback    text        NOT NULL,
    matched     text        NOT NULL DEFAULT 'none',
    delivery    uuid,
    merchant    text,
    customer    text,
    effect      text        NOT NULL DEFAULT 'none',
    sender      text        NOT NULL,
    raw         bytea       NOT NULL,
    received_at timestamptz NOT NULL,
    stored_at   timestamptz NOT NULL DEFAULT now(),
    CHECK (matched IN ('none', 'claimed', 'authentic'))
);

COMMENT ON TABLE  notifier.inbound IS 'What came back: reports, automatic answers and people''s, by mail or text message. Nothing follows from what is not authentic';
COMMENT ON COLUMN notifier.inbound.id          IS 'Made of the whole mail, or of the provider''s id of a text message: the same one again is known';
COMMENT ON COLUMN notifier.inbound.class       IS 'hard_bounce, soft_bounce, blocked, complaint, delayed, delivered, auto_reply, notice, reply or unclear';
COMMENT ON COLUMN notifier.inbound.status      IS 'Enhanced status code, or the code of the provider of text messages; empty if none was told';
COMMENT ON COLUMN notifier.inbound.feedback    IS 'Of a complaint or notice: its type';
COMMENT ON COLUMN notifier.inbound.matched     IS 'none; claimed: it names a delivery, as anybody could; authentic: only who has had the message could send it';
COMMENT ON COLUMN notifier.inbound.delivery    IS 'The reminder it is about';
COMMENT ON COLUMN notifier.inbound.merchant    IS 'Whose reminder';
COMMENT ON COLUMN notifier.inbound.customer    IS 'Who was reminded';
COMMENT ON COLUMN notifier.inbound.effect      IS 'What followed: none, counted, suppressed, held, or resolved (the reminder''s unknown fate)';
COMMENT ON COLUMN notifier.inbound.sender      IS 'Its From address or number; empty after 30 days. Personal';
COMMENT ON COLUMN notifier.inbound.raw         IS 'RFC 5322 message, into which text messages are made; empty after 30 days. Personal';
COMMENT ON COLUMN notifier.inbound.received_at IS 'Business time';
COMMENT ON COLUMN notifier.inbound.stored_at   IS 'Machine time; retention goes by it';

CREATE INDEX inbound_delivery ON notifier.inbound (delivery) WHERE delivery IS NOT NULL;
CREATE INDEX inbound_customer ON notifier.inbound (merchant, customer, received_at) WHERE matched = 'authentic';
CREATE INDEX inbound_received_at ON notifier.inbound (received_at);
CREATE INDEX inbound_trim ON notifier.inbound (stored_at) WHERE raw <> '';

CREATE TABLE notifier.suppression_change (
    id         bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    merchant   text        NOT NULL,
    channel    text        NOT NULL,
    subject    text        NOT NULL,
    what       text        NOT NULL,
    reason     text        NOT NULL,
    changed_by text        NOT NULL,
    changed_at timestamptz NOT NULL,
    CHECK (what IN ('added', 'removed'))
);

COMMENT ON TABLE  notifier.suppression_change IS 'What people did to the suppression list';
COMMENT ON COLUMN notifier.suppression_change.id         IS 'In the order of the changes';
COMMENT ON COLUMN notifier.suppression_change.merchant   IS 'Whose list';
COMMENT ON COLUMN notifier.suppression_change.channel    IS 'email, sms, webhook or task';
COMMENT ON COLUMN notifier.suppression_change.subject    IS 'As in the list. Personal';
COMMENT ON COLUMN notifier.suppression_change.what       IS 'added or removed';
COMMENT ON COLUMN notifier.suppression_change.reason     IS 'Why, in their words';
COMMENT ON COLUMN notifier.suppression_change.changed_by IS 'Who';
COMMENT ON COLUMN notifier.suppression_change.changed_at IS 'Business time';

CREATE TABLE notifier.erasure (
    id        bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    merchant  text        NOT NULL,
    customer  text        NOT NULL,
    counts    jsonb       NOT NULL,
    erased_at timestamptz NOT NULL
);

COMMENT ON TABLE  notifier.erasure IS 'What was erased here of persons; by whom and why, ingest knows';
COMMENT ON COLUMN notifier.erasure.id        IS 'In the order of the erasures';
COMMENT ON COLUMN notifier.erasure.merchant  IS 'Whose customer';
COMMENT ON COLUMN notifier.erasure.customer  IS 'The processor''s id';
COMMENT ON COLUMN notifier.erasure.counts    IS 'How many rows of what';
COMMENT ON COLUMN notifier.erasure.erased_at IS 'Business time';

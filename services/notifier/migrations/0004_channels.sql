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

CREATE TABLE notifier.task (
    id          uuid        PRIMARY KEY,
    merchant    text        NOT NULL,
    customer    text        NOT NULL,
    invoices    text[]      NOT NULL,
    epochs      integer[]   NOT NULL,
    currency    text        NOT NULL,
    step        text        NOT NULL,
    reason      text        NOT NULL,
    call_from   timestamptz NOT NULL,
    call_until  timestamptz NOT NULL,
    created_at  timestamptz NOT NULL,
    outcome     text        NOT NULL DEFAULT '',
    until       date,
    note        text        NOT NULL DEFAULT '',
    closed_by   text        NOT NULL DEFAULT '',
    closed_at   timestamptz,
    traceparent text
);

COMMENT ON TABLE  notifier.task IS 'The call list: reminders that a person of the merchant''s carries out. Whom to call, and what is owed by then, is looked up when it is listed';
COMMENT ON COLUMN notifier.task.id          IS 'The reminder';
COMMENT ON COLUMN notifier.task.merchant    IS 'Whose';
COMMENT ON COLUMN notifier.task.customer    IS 'Whom to call';
COMMENT ON COLUMN notifier.task.invoices    IS 'What about';
COMMENT ON COLUMN notifier.task.epochs      IS 'Of each invoice: in another one it is another debt';
COMMENT ON COLUMN notifier.task.currency    IS 'ISO 4217';
COMMENT ON COLUMN notifier.task.step        IS 'The step of the campaign that asked for it';
COMMENT ON COLUMN notifier.task.reason      IS 'Why a person: the campaign''s step says so, or how the channel before ended';
COMMENT ON COLUMN notifier.task.call_from   IS 'The payer may be called from then on';
COMMENT ON COLUMN notifier.task.call_until  IS 'Until then on the first day; later, within the same hours';
COMMENT ON COLUMN notifier.task.created_at  IS 'Business time';
COMMENT ON COLUMN notifier.task.outcome     IS 'Empty while it is open; then reached, promised, paid, disputed, wrong_person, no_answer or voicemail, or settled: nothing is owed any more';
COMMENT ON COLUMN notifier.task.until       IS 'Payer''s date of a promise';
COMMENT ON COLUMN notifier.task.note        IS 'In that person''s words. Personal';
COMMENT ON COLUMN notifier.task.closed_by   IS 'Who; empty if it closed by itself';
COMMENT ON COLUMN notifier.task.closed_at   IS 'Business time';
COMMENT ON COLUMN notifier.task.traceparent IS 'Trace that asked for it';

CREATE INDEX task_open ON notifier.task (merchant, customer) WHERE closed_at IS NULL;
CREATE INDEX task_customer ON notifier.task (merchant, customer);

CREATE TABLE notifier.evidence (
    id       bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    delivery uuid        NOT NULL,
    says     text        NOT NULL,
    source   text        NOT NULL,
    said_by  text        NOT NULL,
    reason   text        NOT NULL,
    said_at  timestamptz NOT NULL
);

COMMENT ON TABLE  notifier.evidence IS 'What providers and people say became of deliveries: it settles those of unknown fate';
COMMENT ON COLUMN notifier.evidence.id       IS 'In the order in which it came';
COMMENT ON COLUMN notifier.evidence.delivery IS 'The reminder';
COMMENT ON COLUMN notifier.evidence.says     IS 'sent, not_sent or send_again: a second hand-over that a person asked for';
COMMENT ON COLUMN notifier.evidence.source   IS 'operator, provider or mail: something came back of it';
COMMENT ON COLUMN notifier.evidence.said_by  IS 'Who: a name, or the provider''s id of the message';
COMMENT ON COLUMN notifier.evidence.reason   IS 'In their words';
COMMENT ON COLUMN notifier.evidence.said_at  IS 'Business time';

CREATE INDEX evidence_delivery ON notifier.evidence (delivery);
CREATE INDEX delivery_unknown ON notifier.delivery (settled_at, id) WHERE unknown;
CREATE INDEX customer_number ON notifier.customer (merchant, number) WHERE number <> '';

CREATE TABLE notifier.webhook (
    id              uuid        PRIMARY KEY,
    merchant        text        NOT NULL,
    customer        text        NOT NULL,
    invoice         text        NOT NULL,
    epoch           integer     NOT NULL,
    invoice_version bigint      NOT NULL,
    body            text        NOT NULL,
    state           text        NOT NULL DEFAULT 'pending',
    next_at         timestamptz NOT NULL,
    leased_until    timestamptz,
    attempts        integer     NOT NULL DEFAULT 0,
    tries           integer     NOT NULL DEFAULT 0,
    reason          text        NOT NULL DEFAULT '',
    last_error      text        NOT NULL DEFAULT '',
    created_at      timestamptz NOT NULL,
    settled_at      timestamptz,
    stored_at       timestamptz NOT NULL DEFAULT now(),
    traceparent     text
) WITH (fillfactor = 70);

COMMENT ON TABLE  notifier.webhook IS 'Calls of merchants'' own systems, one for each case that ended so. The primary key is derived from the case: an event that comes again is the same call';
COMMENT ON COLUMN notifier.webhook.id              IS 'The webhook-id of every attempt';
COMMENT ON COLUMN notifier.webhook.merchant        IS 'Whose';
COMMENT ON COLUMN notifier.webhook.customer        IS 'Who owes';
COMMENT ON COLUMN notifier.webhook.invoice         IS 'The invoice that is still owed';
COMMENT ON COLUMN notifier.webhook.epoch           IS 'The invoice''s epoch: another one has a case of its own';
COMMENT ON COLUMN notifier.webhook.invoice_version IS 'The invoice''s version that the sequence ended on: the balance must be at least as new';
COMMENT ON COLUMN notifier.webhook.body            IS 'JSON, the same at every attempt; empty 30 days after what needs it no more';
COMMENT ON COLUMN notifier.webhook.state           IS 'pending; then delivered, failed (until an operator has it tried again) or cancelled';
COMMENT ON COLUMN notifier.webhook.next_at         IS 'Business time before which it is not claimed';
COMMENT ON COLUMN notifier.webhook.leased_until    IS 'Machine time until which nobody else claims it';
COMMENT ON COLUMN notifier.webhook.attempts        IS 'How often it was claimed: tells one claim from another';
COMMENT ON COLUMN notifier.webhook.tries           IS 'How often the merchant''s system was called in vain: too often, and it is given up';
COMMENT ON COLUMN notifier.webhook.reason          IS 'Why it waits, or why it ended so';
COMMENT ON COLUMN notifier.webhook.last_error      IS 'Of the last call in vain';
COMMENT ON COLUMN notifier.webhook.created_at      IS 'Business time';
COMMENT ON COLUMN notifier.webhook.settled_at      IS 'Business time of the end';
COMMENT ON COLUMN notifier.webhook.stored_at       IS 'Machine time; retention goes by it';
COMMENT ON COLUMN notifier.webhook.traceparent     IS 'Trace that asked for it';

CREATE INDEX webhook_pending ON notifier.webhook (next_at, id) WHERE state = 'pending';
CREATE INDEX webhook_listed ON notifier.webhook (created_at, id) WHERE state IN ('pending', 'failed');
CREATE INDEX webhook_invoice ON notifier.webhook (merchant, invoice);
CREATE INDEX webhook_trim ON notifier.webhook (stored_at) WHERE state IN ('delivered', 'cancelled') AND body <> '';

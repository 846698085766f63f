CREATE TABLE notifier.balance (
    merchant      text    NOT NULL,
    invoice       text    NOT NULL,
    customer      text    NOT NULL,
    version       bigint  NOT NULL,
    epoch         integer NOT NULL,
    status        text    NOT NULL,
    disputed      boolean NOT NULL,
    pending_since timestamptz,
    currency      text    NOT NULL,
    total_minor   bigint  NOT NULL,
    open_minor    bigint  NOT NULL,
    number        text    NOT NULL,
    due_on        date,
    failed_attempts integer NOT NULL,
    pay_url       text    NOT NULL,
    document_url  text    NOT NULL,
    bill_to_name  text    NOT NULL,
    bill_to_email text    NOT NULL,
    PRIMARY KEY (merchant, invoice)
) WITH (fillfactor = 80);

COMMENT ON TABLE  notifier.balance IS 'What is owed on each invoice. Locked while a final dot is written: a payment is recorded before the dot or after it, never during';
COMMENT ON COLUMN notifier.balance.merchant      IS 'Whose';
COMMENT ON COLUMN notifier.balance.invoice       IS 'The processor''s id';
COMMENT ON COLUMN notifier.balance.customer      IS 'The processor''s id of the customer';
COMMENT ON COLUMN notifier.balance.version       IS 'Of the snapshot: a lower one never replaces a higher one. Nothing changes here without a higher one: the last look before a dot goes by it';
COMMENT ON COLUMN notifier.balance.epoch         IS '1, and one more after each chargeback or late failure';
COMMENT ON COLUMN notifier.balance.status        IS 'open, paid, void or written_off';
COMMENT ON COLUMN notifier.balance.disputed      IS 'Nothing is sent while it lasts';
COMMENT ON COLUMN notifier.balance.pending_since IS 'Business time since when money is under way: what was decided before that is not sent';
COMMENT ON COLUMN notifier.balance.currency      IS 'ISO 4217';
COMMENT ON COLUMN notifier.balance.total_minor   IS 'Billed, in minor units';
COMMENT ON COLUMN notifier.balance.open_minor    IS 'Still owed, in minor units';
COMMENT ON COLUMN notifier.balance.number        IS 'Printed on the invoice';
COMMENT ON COLUMN notifier.balance.due_on        IS 'Civil date';
COMMENT ON COLUMN notifier.balance.failed_attempts IS 'How often the processor failed to collect in this epoch';
COMMENT ON COLUMN notifier.balance.pay_url       IS 'Where the payer can pay. Personal';
COMMENT ON COLUMN notifier.balance.document_url  IS 'Where the invoice is as a PDF; empty if nowhere. Personal';
COMMENT ON COLUMN notifier.balance.bill_to_name  IS 'Used while the customer is not known. Personal';
COMMENT ON COLUMN notifier.balance.bill_to_email IS 'Used while the customer is not known. Personal';

CREATE TABLE notifier.customer (
    merchant text    NOT NULL,
    customer text    NOT NULL,
    version  bigint  NOT NULL,
    name     text    NOT NULL,
    email    text    NOT NULL,
    phone    text    NOT NULL,
    number   text    NOT NULL,
    locale   text    NOT NULL,
    deleted  boolean NOT NULL,
    PRIMARY KEY (merchant, customer)
);

COMMENT ON TABLE  notifier.customer IS 'Whom to write to';
COMMENT ON COLUMN notifier.customer.merchant IS 'Whose';
COMMENT ON COLUMN notifier.customer.customer IS 'The processor''s id';
COMMENT ON COLUMN notifier.customer.version  IS 'Of the snapshot: a lower one never replaces a higher one';
COMMENT ON COLUMN notifier.customer.name     IS 'To greet. Personal';
COMMENT ON COLUMN notifier.customer.email    IS 'To write to; empty if none is known. Personal';
COMMENT ON COLUMN notifier.customer.phone    IS 'To call, as it was given; empty if none is known. Personal';
COMMENT ON COLUMN notifier.customer.number   IS 'The same in E.164, so that an answer finds whom it is from; empty if it has no country code. Personal';
COMMENT ON COLUMN notifier.customer.locale   IS 'BCP 47; empty: the merchant''s';
COMMENT ON COLUMN notifier.customer.deleted  IS 'Nobody is left to write to';

CREATE TABLE notifier.suppression (
    merchant   text        NOT NULL,
    channel    text        NOT NULL,
    subject    text        NOT NULL,
    reason     text        NOT NULL,
    source     text        NOT NULL,
    created_at timestamptz NOT NULL,
    PRIMARY KEY (merchant, channel, subject)
);

COMMENT ON TABLE  notifier.suppression IS 'Who must not be written to. Looked at in the transaction that permits a send';
COMMENT ON COLUMN notifier.suppression.merchant   IS 'Whose reminders';
COMMENT ON COLUMN notifier.suppression.channel    IS 'email, sms, webhook or task: the way that is closed';
COMMENT ON COLUMN notifier.suppression.subject    IS 'customer:<id>, address:<lower-case address, number or URL> (personal), or hash:<keyed hash of the address> of somebody erased';
COMMENT ON COLUMN notifier.suppression.reason     IS 'unsubscribed, bad_address, bounced, complained, erased, an operator''s, or gone: the merchant''s system said 410';
COMMENT ON COLUMN notifier.suppression.source     IS 'The event, delivery or person that led to it';
COMMENT ON COLUMN notifier.suppression.created_at IS 'Business time';

CREATE TABLE notifier.delivery (
    id              uuid        PRIMARY KEY,
    merchant        text        NOT NULL,
    customer        text        NOT NULL,
    channel         text        NOT NULL,
    request         bytea       NOT NULL,
    invoices        text[]      NOT NULL,
    state           text        NOT NULL DEFAULT 'waiting',
    open            boolean     NOT NULL GENERATED ALWAYS AS (state IN ('waiting', 'claimed', 'imminent')) STORED,
    unknown         boolean     NOT NULL GENERATED ALWAYS AS (state = 'unknown') STORED,
    next_attempt_at timestamptz NOT NULL,
    attempts        integer     NOT NULL DEFAULT 0,
    tries           integer     NOT NULL DEFAULT 0,
    owner           uuid,
    held_since      timestamptz,
    reason          text        NOT NULL DEFAULT '',
    status_code     text        NOT NULL DEFAULT '',
    accepted_as     text        NOT NULL DEFAULT '',
    created_at      timestamptz NOT NULL,
    settled_at      timestamptz,
    assumed_at      timestamptz,
    traceparent     text
) WITH (fillfactor = 50);

COMMENT ON TABLE  notifier.delivery IS 'Each reminder on its way. The primary key is the reminder: it is never sent twice';
COMMENT ON COLUMN notifier.delivery.id              IS 'The reminder';
COMMENT ON COLUMN notifier.delivery.merchant        IS 'Whose';
COMMENT ON COLUMN notifier.delivery.customer        IS 'To whom';
COMMENT ON COLUMN notifier.delivery.channel         IS 'email, sms, webhook or task: the way it takes now, of those that the request lists; unknown: one that this version cannot write to';
COMMENT ON COLUMN notifier.delivery.request         IS 'dunlin.events.v1.ReminderDue';
COMMENT ON COLUMN notifier.delivery.invoices        IS 'The invoices it is about';
COMMENT ON COLUMN notifier.delivery.state           IS 'waiting; claimed: being prepared, nothing handed over; imminent: the final dot may have been written; then handed_off, suppressed, failed or unknown for good';
COMMENT ON COLUMN notifier.delivery.open            IS 'By the state: has not ended. Indexes go by this and the next and never by the state: a claim and a permit change none of them, and with half of each page left free the new row stays next to the old one';
COMMENT ON COLUMN notifier.delivery.unknown         IS 'By the state';
COMMENT ON COLUMN notifier.delivery.next_attempt_at IS 'Business time before which it is not claimed';
COMMENT ON COLUMN notifier.delivery.attempts        IS 'How often it was claimed: tells one claim from another';
COMMENT ON COLUMN notifier.delivery.tries           IS 'How often the mail relay was tried in vain: too often, and it is given up';
COMMENT ON COLUMN notifier.delivery.owner           IS 'The process that claimed it';
COMMENT ON COLUMN notifier.delivery.held_since      IS 'Machine time since which it has been claimed or imminent, if it is';
COMMENT ON COLUMN notifier.delivery.reason          IS 'Why it waits, or why it ended so';
COMMENT ON COLUMN notifier.delivery.status_code     IS 'Of the mail server''s last reply';
COMMENT ON COLUMN notifier.delivery.accepted_as     IS 'The mail server''s words on acceptance: its queue id';
COMMENT ON COLUMN notifier.delivery.created_at      IS 'Business time';
COMMENT ON COLUMN notifier.delivery.settled_at      IS 'Business time of the end';
COMMENT ON COLUMN notifier.delivery.assumed_at      IS 'Business time at which one of unknown fate was taken for sent, since nobody had said anything for a day';
COMMENT ON COLUMN notifier.delivery.traceparent     IS 'Trace that asked for it';

CREATE INDEX delivery_open ON notifier.delivery (merchant, next_attempt_at, id) WHERE open AND channel = 'email';
CREATE INDEX delivery_open_others ON notifier.delivery (channel, next_attempt_at, id) WHERE open AND channel <> 'email';
CREATE INDEX delivery_created_at ON notifier.delivery USING brin (created_at);
CREATE INDEX delivery_customer ON notifier.delivery (merchant, customer);

CREATE TABLE notifier.pattern (
    id   uuid  PRIMARY KEY,
    text bytea NOT NULL
);

COMMENT ON TABLE  notifier.pattern IS 'Templates that kept messages were made from: what is kept is what differs. Nobody''s data. A few for each change of a template: they stay';
COMMENT ON COLUMN notifier.pattern.id   IS 'Made of the text';
COMMENT ON COLUMN notifier.pattern.text IS 'Dictionary of LZ4 blocks';

CREATE TABLE notifier.message (
    delivery    uuid        PRIMARY KEY,
    recipient   text        NOT NULL,
    raw         bytea       NOT NULL,
    pattern     uuid,
    rendered_at timestamptz NOT NULL,
    stored_at   timestamptz NOT NULL DEFAULT now()
);

COMMENT ON TABLE  notifier.message IS 'What the payer saw, for 30 days. Written before the final dot can be';
COMMENT ON COLUMN notifier.message.delivery    IS 'The delivery';
COMMENT ON COLUMN notifier.message.recipient   IS 'Envelope recipient. Personal';
COMMENT ON COLUMN notifier.message.raw         IS 'RFC 5322 message, or what else was sent, as an LZ4 block after its size in four bytes (little endian). Personal';
COMMENT ON COLUMN notifier.message.pattern     IS 'The dictionary of that block, if it has one';
COMMENT ON COLUMN notifier.message.rendered_at IS 'Business time';
COMMENT ON COLUMN notifier.message.stored_at   IS 'Machine time; retention goes by it';

-- Compressed already, and read rarely: in the row itself as long as it fits into a page.
ALTER TABLE notifier.message ALTER COLUMN raw SET STORAGE EXTERNAL;
ALTER TABLE notifier.message SET (toast_tuple_target = 8160);

CREATE INDEX message_stored_at ON notifier.message USING brin (stored_at);

CREATE TABLE notifier.sender (
    owner       uuid        PRIMARY KEY,
    alive_until timestamptz NOT NULL
);

COMMENT ON TABLE  notifier.sender IS 'Processes that send, each with a lease: what they hold is taken over when it ends';
COMMENT ON COLUMN notifier.sender.owner       IS 'The process';
COMMENT ON COLUMN notifier.sender.alive_until IS 'Machine time';

CREATE TABLE tracker.invoice (
    merchant    text        NOT NULL,
    invoice     text        NOT NULL,
    version     bigint      NOT NULL,
    customer    text        NOT NULL,
    epoch       integer     NOT NULL,
    status      text        NOT NULL,
    number      text        NOT NULL,
    currency    text        NOT NULL,
    total_minor bigint      NOT NULL,
    due_on      date,
    closed_at   timestamptz,
    disputed    boolean     NOT NULL,
    pay_url     text        NOT NULL,
    PRIMARY KEY (merchant, invoice)
) WITH (fillfactor = 80);

COMMENT ON TABLE  tracker.invoice IS 'The latest snapshot of each invoice, as far as figures and pay links need it';
COMMENT ON COLUMN tracker.invoice.merchant    IS 'Whose';
COMMENT ON COLUMN tracker.invoice.invoice     IS 'The processor''s id';
COMMENT ON COLUMN tracker.invoice.version     IS 'Of the snapshot: a lower one never replaces a higher one';
COMMENT ON COLUMN tracker.invoice.customer    IS 'The processor''s id of the customer';
COMMENT ON COLUMN tracker.invoice.epoch       IS '1, and one more after each chargeback or late failure';
COMMENT ON COLUMN tracker.invoice.status      IS 'open, paid, void or written_off';
COMMENT ON COLUMN tracker.invoice.number      IS 'Printed on the invoice';
COMMENT ON COLUMN tracker.invoice.currency    IS 'ISO 4217';
COMMENT ON COLUMN tracker.invoice.total_minor IS 'Billed, in minor units';
COMMENT ON COLUMN tracker.invoice.due_on      IS 'Civil date';
COMMENT ON COLUMN tracker.invoice.closed_at   IS 'Business time';
COMMENT ON COLUMN tracker.invoice.disputed    IS 'Whether its payer contests it';
COMMENT ON COLUMN tracker.invoice.pay_url     IS 'Where the payer can pay. Personal';

CREATE INDEX invoice_due_on ON tracker.invoice (merchant, due_on);
CREATE INDEX invoice_closed_at ON tracker.invoice (closed_at) WHERE status = 'paid';

CREATE TABLE tracker.overdue (
    merchant text        NOT NULL,
    invoice  text        NOT NULL,
    epoch    integer     NOT NULL,
    told_at  timestamptz NOT NULL,
    PRIMARY KEY (merchant, invoice, epoch)
);

COMMENT ON TABLE  tracker.overdue IS 'Invoices that became overdue';
COMMENT ON COLUMN tracker.overdue.merchant IS 'Whose';
COMMENT ON COLUMN tracker.overdue.invoice  IS 'The processor''s id';
COMMENT ON COLUMN tracker.overdue.epoch    IS 'Of the invoice';
COMMENT ON COLUMN tracker.overdue.told_at  IS 'Business time';

CREATE TABLE tracker.customer (
    merchant text   NOT NULL,
    customer text   NOT NULL,
    version  bigint NOT NULL,
    segment  text   NOT NULL,
    PRIMARY KEY (merchant, customer)
);

COMMENT ON TABLE  tracker.customer IS 'The segment of each customer; one that is missing is new';
COMMENT ON COLUMN tracker.customer.merchant IS 'Whose';
COMMENT ON COLUMN tracker.customer.customer IS 'The processor''s id';
COMMENT ON COLUMN tracker.customer.version  IS 'Of the segment: a lower one never replaces a higher one';
COMMENT ON COLUMN tracker.customer.segment  IS 'new, prompt, mixed, usually_late, chronically_late or at_risk';

CREATE TABLE tracker.reminder (
    id         uuid        PRIMARY KEY,
    merchant   text        NOT NULL,
    customer   text        NOT NULL,
    campaign   text        NOT NULL,
    step       text        NOT NULL,
    segment    text        NOT NULL,
    outcome    text        NOT NULL,
    reason     text        NOT NULL,
    settled_at timestamptz NOT NULL
);

COMMENT ON TABLE  tracker.reminder IS 'How each reminder ended';
COMMENT ON COLUMN tracker.reminder.id         IS 'The reminder';
COMMENT ON COLUMN tracker.reminder.merchant   IS 'Whose';
COMMENT ON COLUMN tracker.reminder.customer   IS 'To whom';
COMMENT ON COLUMN tracker.reminder.campaign   IS 'Campaign';
COMMENT ON COLUMN tracker.reminder.step       IS 'The step that spoke';
COMMENT ON COLUMN tracker.reminder.segment    IS 'The customer''s, when it was decided';
COMMENT ON COLUMN tracker.reminder.outcome    IS 'sent, suppressed, failed or unknown; a later sent replaces an unknown';
COMMENT ON COLUMN tracker.reminder.reason     IS 'Machine-readable';
COMMENT ON COLUMN tracker.reminder.settled_at IS 'Business time';

CREATE INDEX reminder_settled_at ON tracker.reminder (merchant, settled_at);

CREATE TABLE tracker.reminder_line (
    reminder uuid    NOT NULL,
    merchant text    NOT NULL,
    invoice  text    NOT NULL,
    epoch    integer NOT NULL,
    step     text    NOT NULL,
    PRIMARY KEY (reminder, invoice)
);

COMMENT ON TABLE  tracker.reminder_line IS 'Invoices that were in a message that went out';
COMMENT ON COLUMN tracker.reminder_line.reminder IS 'The reminder';
COMMENT ON COLUMN tracker.reminder_line.merchant IS 'Whose';
COMMENT ON COLUMN tracker.reminder_line.invoice  IS 'The processor''s id';
COMMENT ON COLUMN tracker.reminder_line.epoch    IS 'Of the invoice';
COMMENT ON COLUMN tracker.reminder_line.step     IS 'The invoice''s own step';

CREATE INDEX reminder_line_invoice ON tracker.reminder_line (merchant, invoice, epoch);

CREATE TABLE tracker.step (
    merchant   text        NOT NULL,
    invoice    text        NOT NULL,
    epoch      integer     NOT NULL,
    step       text        NOT NULL,
    outcome    text        NOT NULL,
    reason     text        NOT NULL,
    rule       text        NOT NULL,
    decided_at timestamptz NOT NULL,
    PRIMARY KEY (merchant, invoice, epoch, step)
);

COMMENT ON TABLE  tracker.step IS 'Steps that were decided without a message of their own';
COMMENT ON COLUMN tracker.step.merchant   IS 'Whose';
COMMENT ON COLUMN tracker.step.invoice    IS 'The processor''s id';
COMMENT ON COLUMN tracker.step.epoch      IS 'Of the invoice';
COMMENT ON COLUMN tracker.step.step       IS 'Key in the campaign';
COMMENT ON COLUMN tracker.step.outcome    IS 'merged or skipped';
COMMENT ON COLUMN tracker.step.reason     IS 'Machine-readable';
COMMENT ON COLUMN tracker.step.rule       IS 'What in the campaign, the law or the operation caused it, such as contact.min_gap_days; empty if nothing more is known';
COMMENT ON COLUMN tracker.step.decided_at IS 'Business time';

CREATE TABLE tracker.sequence (
    merchant    text        NOT NULL,
    invoice     text        NOT NULL,
    epoch       integer     NOT NULL,
    outcome     text        NOT NULL,
    campaign    text        NOT NULL,
    ended_at    timestamptz NOT NULL,
    event       uuid        NOT NULL,
    traceparent text,
    PRIMARY KEY (merchant, invoice, epoch)
);

COMMENT ON TABLE  tracker.sequence IS 'Sequences of reminders that ended while money was still owed';
COMMENT ON COLUMN tracker.sequence.merchant    IS 'Whose';
COMMENT ON COLUMN tracker.sequence.invoice     IS 'The processor''s id';
COMMENT ON COLUMN tracker.sequence.epoch       IS 'Of the invoice';
COMMENT ON COLUMN tracker.sequence.outcome     IS 'Who goes on. hand_over: a person, who is waited for while the invoice stays open in this epoch; webhook: the merchant''s own system; stop: nobody';
COMMENT ON COLUMN tracker.sequence.campaign    IS 'Campaign';
COMMENT ON COLUMN tracker.sequence.ended_at    IS 'Business time';
COMMENT ON COLUMN tracker.sequence.event       IS 'The event that told it';
COMMENT ON COLUMN tracker.sequence.traceparent IS 'Trace of the decision';

CREATE INDEX sequence_hand_over ON tracker.sequence (merchant) WHERE outcome = 'hand_over';
CREATE INDEX sequence_ended_at ON tracker.sequence (ended_at);

CREATE TABLE tracker.enrolment (
    merchant           text             NOT NULL,
    invoice            text             NOT NULL,
    epoch              integer          NOT NULL,
    customer           text             NOT NULL,
    campaign           text             NOT NULL,
    campaign_version   text             NOT NULL,
    schedule           text             NOT NULL,
    propensity         double precision NOT NULL,
    segment            text             NOT NULL,
    late               real,
    due_on             date,
    reminds_before_due boolean          NOT NULL,
    arms               jsonb            NOT NULL,
    model              text             NOT NULL,
    enrolled_at        timestamptz      NOT NULL,
    PRIMARY KEY (merchant, invoice, epoch)
);

COMMENT ON TABLE  tracker.enrolment IS 'Which schedule each invoice was drawn for, before anything of it was sent: what lift is measured on';
COMMENT ON COLUMN tracker.enrolment.merchant           IS 'Whose';
COMMENT ON COLUMN tracker.enrolment.invoice            IS 'The processor''s id';
COMMENT ON COLUMN tracker.enrolment.epoch              IS 'Of the invoice';
COMMENT ON COLUMN tracker.enrolment.customer           IS 'The processor''s id of the customer';
COMMENT ON COLUMN tracker.enrolment.campaign           IS 'Campaign; until something is sent another one may take over, and the latest enrolment wins';
COMMENT ON COLUMN tracker.enrolment.campaign_version   IS 'Its content hash';
COMMENT ON COLUMN tracker.enrolment.schedule           IS 'adaptive, held_out_invoice or held_out_customer';
COMMENT ON COLUMN tracker.enrolment.propensity         IS 'Probability, 0 to 1, with which an invoice of this customer is drawn for adaptive';
COMMENT ON COLUMN tracker.enrolment.segment            IS 'The customer''s, at that moment';
COMMENT ON COLUMN tracker.enrolment.late               IS 'Probability, 0 to 1, of paying after the due date, as estimated at that moment; null: nothing was known';
COMMENT ON COLUMN tracker.enrolment.due_on             IS 'Civil date, as of that moment: a date that is moved later may have been moved because of a reminder. Null: none';
COMMENT ON COLUMN tracker.enrolment.reminds_before_due IS 'Whether some adaptive step can go out up to the due date';
COMMENT ON COLUMN tracker.enrolment.arms               IS 'Arms drawn for steps with an experiment: step, arm, propensity, days_before_due of each';
COMMENT ON COLUMN tracker.enrolment.model              IS 'Version of the estimator';
COMMENT ON COLUMN tracker.enrolment.enrolled_at        IS 'Business time';

CREATE TABLE tracker.response (
    id           uuid        PRIMARY KEY,
    merchant     text        NOT NULL,
    customer     text        NOT NULL,
    invoice      text        NOT NULL,
    reminder     uuid        NOT NULL,
    kind         text        NOT NULL,
    responded_at timestamptz NOT NULL,
    traceparent  text
);

COMMENT ON TABLE  tracker.response IS 'What payers did with reminders';
COMMENT ON COLUMN tracker.response.id           IS 'The event; of an unsubscription derived from merchant and customer, so that twice is once';
COMMENT ON COLUMN tracker.response.merchant     IS 'Whose';
COMMENT ON COLUMN tracker.response.customer     IS 'Who';
COMMENT ON COLUMN tracker.response.invoice      IS 'About which invoice; empty if about none';
COMMENT ON COLUMN tracker.response.reminder     IS 'The reminder that led to it';
COMMENT ON COLUMN tracker.response.kind         IS 'visited_pay_page or unsubscribed';
COMMENT ON COLUMN tracker.response.responded_at IS 'Business time';
COMMENT ON COLUMN tracker.response.traceparent  IS 'Trace of the request';

CREATE INDEX response_invoice ON tracker.response (merchant, invoice);
CREATE INDEX response_unsubscribed ON tracker.response (merchant, reminder) WHERE kind = 'unsubscribed';
CREATE INDEX response_responded_at ON tracker.response (responded_at);

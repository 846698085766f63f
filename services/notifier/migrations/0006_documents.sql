CREATE TABLE notifier.document (
    merchant   text        NOT NULL,
    invoice    text        NOT NULL,
    url_sha256 bytea       NOT NULL,
    pdf        bytea,
    reason     text        NOT NULL,
    fetched_at timestamptz NOT NULL,
    stored_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (merchant, invoice, url_sha256)
);

COMMENT ON TABLE  notifier.document IS 'Invoices as PDF, fetched once and attached to reminders, for 30 days; or why there is none';
COMMENT ON COLUMN notifier.document.merchant   IS 'Whose';
COMMENT ON COLUMN notifier.document.invoice    IS 'The processor''s id';
COMMENT ON COLUMN notifier.document.url_sha256 IS 'Of the address: another address is another document';
COMMENT ON COLUMN notifier.document.pdf        IS 'The file; null if it is not attached. Personal';
COMMENT ON COLUMN notifier.document.reason     IS 'Why it is not attached; empty if it is. What begins with "unreachable" is tried again by the next reminder';
COMMENT ON COLUMN notifier.document.fetched_at IS 'Business time';
COMMENT ON COLUMN notifier.document.stored_at  IS 'Machine time; retention goes by it';

-- Compressed already.
ALTER TABLE notifier.document ALTER COLUMN pdf SET STORAGE EXTERNAL;

CREATE INDEX document_stored_at ON notifier.document USING brin (stored_at);

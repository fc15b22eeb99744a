-- 240_served.sql: what git fetched from us, for /metrics.

-- A row is one way in which git or a person is served a moment's objects, and how often and how many bytes that was ever.
create table served (
  kind   text        primary key check (kind in ('clone', 'fetch', 'archive')),  -- a clone has no object before
  number bigint      not null check (number >= 0),
  bytes  numeric(30) not null check (bytes >= 0)  -- that were sent, of packs and what git says beside them
);

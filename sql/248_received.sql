-- 248_received.sql: what was pushed to Everref, for /metrics.

-- A row is one way in which a push ended, and how many did and how many bytes of packs they sent ever.
create table received (
  outcome text        primary key check (outcome in ('saved', 'unchanged', 'refused', 'failed')),
  number  bigint      not null check (number >= 0),
  bytes   numeric(30) not null check (bytes >= 0)
);

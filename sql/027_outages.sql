-- 027_outages.sql: what all repos share can be away, which is one state of the installation and no failure of any repo.

-- A row is one stretch of time in which the vault, or the disk of a machine, was away. While one is open nothing that
-- needs it is taken up. The database's own outages have no rows, as nobody could write them.
create table outage (
  id       bigint primary key generated always as identity,
  origin   text        not null check (origin in ('vault', 'disk')),
  place    text        not null,                 -- the machine whose disk it is; empty for the vault, which is one for all
  class    text        not null,                 -- of the error that was met
  message  text        not null,
  began_at timestamptz not null,
  asked_at timestamptz not null default clock_timestamp(),  -- when somebody last looked whether it is back
  ended_at timestamptz                           -- null: it is away
);
create unique index outage_open on outage (origin, place) where ended_at is null;  -- noticed once, whoever meets it

alter table job add column failure_origin text;  -- whose failure it was; null: it has not failed, or nobody said

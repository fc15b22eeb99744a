-- 121_ping.sql: the dead man's switches: whom Everref tells regularly that all is well, so that silence means trouble.

-- A row is one monitor outside. Of a team: its admins chose it; of none: the one of PING_URL, for the whole installation, whose
-- address is in no row.
create table ping (
  id            uuid        primary key default gen_random_uuid(),
  team_id       uuid        unique references team on delete cascade,
  sealed        bytea,                               -- its address, which lets anybody ping in our name; null: PING_URL
  shown         text        not null,                -- the host of it
  style         text        not null default 'healthchecks' check (style in ('healthchecks', 'plain')),
  drill_age     interval    not null default interval '35 days' check (drill_age > interval '0'),  -- of the last drill, at the most
  read_age      interval    not null default interval '35 days' check (read_age > interval '0'),   -- of the last verification
  created_at    timestamptz not null,
  pinged_at     timestamptz,                         -- when it last answered that it heard that all is well; null: not yet
  asked_at      timestamptz,                         -- when anything was last sent
  answer        text,                                -- to that, in a line
  silent_since  timestamptz,                         -- since when there is a reason not to ping; null: all is well
  told          boolean     not null default false,  -- that it is not, since then
  failing_since timestamptz,                         -- since when it takes no ping; null: it took the last one
  check ((team_id is null) = (sealed is null))
);
create unique index ping_of_installation on ping ((team_id is null)) where team_id is null;

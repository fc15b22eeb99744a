-- 165_team_keys.sql: to whom a team's backups are sealed, and with what they are opened.

-- Since when new objects of the team's repos are sealed; null: they are stored plain. What was sealed stays readable.
alter table team add column sealed_since timestamptz;

-- A row is an identity of a team's own, as age has it (X25519). One that is not retired is sealed to; every one opens.
create table team_key (
  id         uuid        primary key default gen_random_uuid(),
  team_id    uuid        not null references team on delete cascade,
  recipient  text        not null check (recipient ~ '^age1[0-9a-z]+$'),
  sealed     bytea       not null,   -- the identity, sealed with SECRET_KEYS, for team_key/<id>
  made_at    timestamptz not null,
  retired_at timestamptz,            -- null: it is the one that is sealed to
  unique (team_id, recipient)
);
create unique index team_key_now on team_key (team_id) where retired_at is null;

-- A row is somebody's key that backups are sealed to as well, so that they can be opened without Everref. It counts
-- once somebody has shown that they have its private half, which is never here.
create table recovery_key (
  id         uuid        primary key default gen_random_uuid(),
  team_id    uuid        not null references team on delete cascade,
  recipient  text        not null check (recipient <> '' and octet_length(recipient) <= 8000),  -- as age takes it
  kind       text        not null check (kind in ('age', 'ssh', 'plugin', 'sheet')),  -- sheet: of one that was printed
  name       text        not null check (name <> '' and octet_length(name) <= 400),
  added_by   uuid        references person on delete set null,  -- null: whoever runs Everref
  added_at   timestamptz not null,
  proved_at  timestamptz,            -- null: nothing is sealed to it yet
  removed_at timestamptz             -- what was sealed to it before stays readable with it
);
create unique index recovery_key_there on recovery_key (team_id, recipient) where removed_at is null;

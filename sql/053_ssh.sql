-- 053_ssh.sql: how hosts are reached by ssh.

-- A row is a team's own key, whose public half people add at their hosts as a deploy key. The private half is sealed.
create table ssh_key (
  team_id    uuid        primary key references team on delete cascade,
  public     text        not null,  -- as in authorized_keys
  sealed     bytea       not null,
  created_at timestamptz not null
);

-- A row is the keys by which a team knows a host: those that it showed when it was first met. What shows another key
-- gets nothing, until somebody forgets this row.
create table ssh_host (
  team_id   uuid        not null references team on delete cascade,
  host      text        not null check (host <> ''),
  port      int         not null check (port between 1 and 65535),
  keys      text[]      not null check (cardinality(keys) > 0),  -- "ssh-ed25519 AAAA..."
  pinned_at timestamptz not null,
  primary key (team_id, host, port)
);

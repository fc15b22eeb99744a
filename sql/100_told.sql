-- 100_told.sql: what leaves the house: where it goes, what is said, and what became of it.

-- A row is a place that messages go to. Of a team: its members set it up; of a person: about all of that person's teams; of
-- neither: of whoever runs the installation. What lets somebody write there or read there is sealed with SECRET_KEYS.
create table channel (
  id           uuid        primary key default gen_random_uuid(),
  team_id      uuid        references team on delete cascade,
  person_id    uuid        references person on delete cascade,
  kind         text        not null check (kind in ('mail', 'webhook', 'chat')),
  name         text        not null check (name <> '' and octet_length(name) <= 200),  -- as its owner calls it
  shown        text        not null,                -- what of its address anybody may see: a mail address, a host
  sealed       bytea       not null,                -- JSON: the address, and the key that signs what is sent there
  off          text[]      not null default '{}',   -- kinds of messages that it does not want (mirror/core/messages.py)
  quiet_from   time,                                -- from when on it gets what is urgent alone; null: always everything
  quiet_to     time,
  zone         text,                                -- of these two, an IANA name; null: UTC
  created_at   timestamptz not null,
  confirmed_at timestamptz,                         -- null: nothing but the question whether it may be used is sent there
  failing_since timestamptz,                        -- null: what was last sent arrived
  failure      text,                                -- why not, in a line
  removed_at   timestamptz,                         -- null: in use. Its sendings stay
  check (team_id is null or person_id is null),
  check ((quiet_from is null) = (quiet_to is null)),
  check ((failing_since is null) = (failure is null))
);
create index channel_of_team on channel (team_id) where team_id is not null;
create index channel_of_person on channel (person_id) where person_id is not null;

-- A row is one thing that is said, once: a state that began or ended, something that happened, a digest of several, a report.
create table message (
  id         uuid        primary key default gen_random_uuid(),
  team_id    uuid        references team on delete cascade,    -- null: about the installation, or a person alone
  person_id  uuid        references person on delete cascade,  -- for this person alone; null: for whoever wants to know
  kind       text        not null check (kind ~ '^[a-z-]+$'),  -- of mirror/core/messages.py
  urgent     boolean     not null,                             -- sent in quiet hours too
  content    jsonb       not null,                             -- the message as mirror/core/messages.py writes it
  told_key   text        unique,                               -- what makes it the same as an earlier one; null: always a new one
  at         timestamptz not null
);
create index message_of_team on message (team_id, at) where team_id is not null;
create index message_of_person on message (person_id, at) where person_id is not null;

-- A row is a message at a channel: it waits, and then it arrived, or was given up after a day of tries.
create table sending (
  message_id uuid        not null references message on delete cascade,
  channel_id uuid        not null references channel on delete cascade,
  state      text        not null default 'waiting' check (state in ('waiting', 'sent', 'failed')),
  due_at     timestamptz not null,          -- waiting: when it is next tried
  tries      int         not null default 0,
  tried_at   timestamptz,                   -- null: not yet
  answer     text,                          -- what the other side last said, in a line, without secrets; null: nothing yet
  primary key (message_id, channel_id)
);
create index sending_due on sending (due_at) where state = 'waiting';
create index sending_of_channel on sending (channel_id, tried_at);

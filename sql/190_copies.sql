-- 190_copies.sql: the stores that hold the vault, what each still has to get, and what was wrong in them.

-- A row is a store that VAULT_COPIES names or named, or that was the first vault before a switch.
create table vault_copy (
  name         text        primary key,           -- as the settings call it
  place        text        not null,              -- where it is, without credentials
  added_at     timestamptz not null,
  marked       boolean     not null default false,  -- its marker was written or seen: a place without one is not it
  listed_at    timestamptz,                       -- when it was last compared with the first by a listing; null: never, it is being filled
  objects      bigint,                            -- that it had then
  bytes        bigint,
  extra        bigint      not null default 0,    -- objects in it then that the first does not have
  away_since   timestamptz,                       -- null: it answers
  away         text,                              -- what it said last
  reads        bigint      not null default 0,    -- objects that were read from it because the first did not give them
  read_from_at timestamptz,                       -- when that last happened
  read_from    text,                              -- and why
  read_next_at timestamptz not null default '-infinity'  -- before which nothing more of it is read back
);

-- A row says that a store is to get a key, or to lose it. It is written before the first store is, so that nothing that is killed
-- loses it; it goes when the store has followed.
create table copy_due (
  copy    text        not null references vault_copy on delete cascade,
  key     text        not null,
  wanted  text        not null check (wanted in ('put', 'delete')),
  since   timestamptz not null,                  -- when it was first wanted
  stored  boolean     not null default false,    -- the first store has done it, as who asked it said
  due_at  timestamptz not null,                  -- when it is tried next
  again   boolean     not null default false,    -- what is there is damaged: it is replaced
  tries   int         not null default 0,
  problem text,                                  -- why the last try failed
  primary key (copy, key)
);
create index copy_due_next on copy_due (copy, due_at);

-- A row is an object of a copy whose bytes are not what they should be, until it was healed from the first, or went.
create table copy_damage (
  copy     text        not null references vault_copy on delete cascade,
  key      text        not null,
  problem  text        not null,
  found_at timestamptz not null,
  primary key (copy, key)
);

-- A row says when everything of a copy under a prefix (a repo's, or one of the installation's) was last read back.
create table copy_reading (
  copy    text        not null references vault_copy on delete cascade,
  prefix  text        not null,
  read_at timestamptz not null,
  bytes   bigint      not null,
  objects bigint      not null,
  primary key (copy, prefix)
);

-- The row says which store is the first since the last switch, and which one is about to be. No row: VAULT_URL names the first.
create table vault_switch (
  the_one boolean     primary key default true check (the_one),
  first   text,                                  -- null: the one of VAULT_URL
  also    text,                                  -- small objects are written there at once, too; null: no switch is under way
  since   timestamptz,                           -- since when
  beat_at timestamptz,                           -- when who switches was last alive; after two minutes of silence it is off
  check ((also is null) = (since is null))
);

-- 062_sign_in_places.sql: from where people have signed in, so that nobody else's guessing keeps them out.

-- A row is one network from which one person signed in of late: an IPv4 address, or the /64 of an IPv6 one. Somebody who
-- guesses at a password from many places is counted by its e-mail address; who comes from a place of their own is not.
create table sign_in_place (
  person_id uuid        not null references person on delete cascade,
  network   text        not null check (network <> ''),
  used_at   timestamptz not null,              -- when they last signed in from it
  primary key (person_id, network)
);

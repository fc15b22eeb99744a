-- 074_given.sql: what was given in somebody's name ends with what it was given by.

-- The API token by which the invitation was made; null: a person did, in a session. It can be accepted as long as that
-- token is not revoked.
alter table invitation add column token_id uuid references api_token on delete cascade;

-- By which owner of which team's link the session began, where one let a member in who forgot their password; null:
-- otherwise. Such a session lasts as long as `may_let_in` says so, and some hours at the most.
alter table session
  add column let_in_by   uuid references person on delete cascade,
  add column let_in_team uuid references team on delete cascade,
  add check ((let_in_by is null) = (let_in_team is null));

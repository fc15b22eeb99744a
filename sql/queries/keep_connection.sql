-- keep_connection.sql($1 id, $2 team, $3 person, $4 forge, $5 host, $6 account, $7 login, $8 grant kind, $9 scopes,
-- $10 expires_at, $11 sealed access, $12 sealed refresh, $13 now): a connection as it is now to be, where its account
-- is connected by no other id. Its repos that wanted other credentials are tried again.
with kept as (
  insert into connection as known (
    id, team_id, person_id, forge, host, account_id, login, grant_kind, scopes, expires_at,
    sealed_access, sealed_refresh, created_at, checked_at
  ) values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $13)
  on conflict (team_id, forge, host, account_id, grant_kind) do update set
    person_id = excluded.person_id, login = excluded.login, scopes = excluded.scopes,
    expires_at = excluded.expires_at, sealed_access = excluded.sealed_access,
    sealed_refresh = excluded.sealed_refresh, version = known.version + 1,
    state = 'works', why = null, checked_at = excluded.checked_at, list_at = null
  where known.id = excluded.id
  returning *
), tried as (
  update repo set retry_at = failed_at from kept
  where connection_id = kept.id and failure_class = 'credentials'
)
select * from kept;

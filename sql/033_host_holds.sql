-- 033_host_holds.sql: hosts of repositories that have asked to be left alone for a while (HTTP 429; 403 and 503 with Retry-After).
-- A row is a host's word to one holder of credentials: to a connection, to a repo with credentials of its own, or to all that
-- is asked without any. No git request of that holder goes there before `until`; what is over is forgotten hourly.
create table host_hold (
  place  text        not null check (place <> ''),  -- how the addresses of what is there begin, as in https://host/
  holder text        not null,                      -- as the function below says
  until  timestamptz not null,
  primary key (place, holder)
);

-- Whose credentials a repo is asked with.
create function holder(repo_id uuid, connection_id uuid) returns text language sql stable as $$
  select case
    when exists (select from credential where credential.repo_id = holder.repo_id) then 'repo ' || holder.repo_id
    when holder.connection_id is not null then 'connection ' || holder.connection_id
    else 'anybody'
  end
$$;

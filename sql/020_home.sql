-- 020_home.sql: in which state a repo is, in the words of the pages.

-- The first of these that is true.
-- archived: it is gone at its forge; what is kept stays.
-- never: no run ever protected it; its first backup may be under way, or have failed.
-- failing: it is protected as of an earlier time, and the last run failed.
-- behind: the last run went well, and somebody has asked for another since.
-- protected: what its remote said when last asked is stored.
create function repo_state(repo) returns text language sql stable as $$
  select case
    when $1.archived_at is not null then 'archived'
    when $1.protected_as_of is null then 'never'
    when $1.failure_class is not null then 'failing'
    when $1.wanted_at is distinct from $1.synced_at then 'behind'
    else 'protected'
  end
$$;

-- 182_redacted.sql: a person's name leaves the audit logs when their account is erased; the sums of what was written stay.

alter table audit
  add column redacted_at timestamptz;  -- when who did it, to whom and from where was taken out; null: it is as it was written

-- An entry is changed in one way only, in a transaction that says so: names go, and all else stays, also the sums. That it was
-- done is an entry of its own (audit.redact), which names the entries; `audit.check` wants one for each that is redacted.
create or replace function audit_is_append_only() returns trigger language plpgsql as $$
begin
  if tg_op = 'UPDATE' and current_setting('everref.redacting', true) = 'yes' then
    return null;
  end if;
  raise exception 'audit entries are never changed';
end
$$;
create function audit_is_only_redacted() returns trigger language plpgsql as $$
begin
  if new.redacted_at is null or (
    (old.team_id, old.number, old.at, old.action, old.repo_id, old.result, old.previous, old.sha256)
    is distinct from (new.team_id, new.number, new.at, new.action, new.repo_id, new.result, new.previous, new.sha256)
  ) then
    raise exception 'audit entries are never changed';
  end if;
  return new;
end
$$;
create trigger audit_only_redacted before update on audit for each row execute function audit_is_only_redacted();

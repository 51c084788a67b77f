"""What the lead reads of its clerk: the words, without the numbers by which NexAU could resume it."""

import re

from nexau.archs.main_sub.execution.hooks import HookResult, Middleware

REPORT = re.compile(r"\[sub_agent_id: \w+\] (.*)\nSub-agent finished", re.DOTALL)


class Words(Middleware):
    def after_tool(self, hook_input):
        found = REPORT.search(str(hook_input.llm_tool_output))
        return HookResult(llm_tool_output=found[1]) if found else HookResult.no_changes()
